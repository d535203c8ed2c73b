"""Cache of derived values per projector, released together with it."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Keeper: TypeAlias = Callable[[Any, Hashable, Callable[[], Any]], Any]
"""A function (owner, key, compute) -> value, which may find the value elsewhere."""
_VALUES: "weakref.WeakKeyDictionary[object, dict[Hashable, Any]]" = weakref.WeakKeyDictionary()
_KEEPERS: "weakref.WeakKeyDictionary[object, Keeper]" = weakref.WeakKeyDictionary()


def memo(owner: object, key: Hashable, compute: Callable[[], T]) -> T:
    """Return the cached value for an owner and a key; compute it at the first call.

    Args:
        owner: referenced weakly and compared by identity; it must not change afterwards.
        key: of the value.
        compute: function without arguments; its value must not reference the owner.
    """
    values = _VALUES.setdefault(owner, {})
    if key not in values:
        keeper = _KEEPERS.get(owner)
        values[key] = compute() if keeper is None else keeper(owner, key, compute)
    found: T = values[key]
    return found


def keep_with(owner: T, keeper: Keeper) -> T:
    """Ask `keeper` for the values of `owner` that `memo` does not have yet; return the owner."""
    _KEEPERS[owner] = keeper
    return owner

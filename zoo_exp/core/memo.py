"""Cache of derived values per projector, released together with it."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
_VALUES: "weakref.WeakKeyDictionary[object, dict[Hashable, Any]]" = weakref.WeakKeyDictionary()


def memo(owner: object, key: Hashable, compute: Callable[[], T]) -> T:
    """Return the cached value of `compute()` for this owner and key; compute it at the first call.

    The owner is referenced weakly and compared by identity; it must not change afterwards. The value must not
    reference the owner.
    """
    values = _VALUES.setdefault(owner, {})
    if key not in values:
        values[key] = compute()
    found: T = values[key]
    return found

"""Values computed once per projector and forgotten with it."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
_VALUES: "weakref.WeakKeyDictionary[object, dict[Hashable, Any]]" = weakref.WeakKeyDictionary()


def memo(owner: object, key: Hashable, compute: Callable[[], T]) -> T:
    """The value of `compute()` for this owner and key, computed at the first call.

    The owner is held weakly and compared by identity; it must not change afterwards. A value must not refer
    to it.
    """
    values = _VALUES.setdefault(owner, {})
    if key not in values:
        values[key] = compute()
    found: T = values[key]
    return found

"""Imports of a dependency without a slow package that it loads for nothing this project uses."""

import importlib
import sys
from contextlib import suppress
from types import ModuleType


def import_without(name: str, slow: str, **attributes: object) -> ModuleType:
    """Import a module while an empty one stands in for a package that it imports on loading.

    Afterwards the placeholder is gone: the package is imported as usual where it is needed. Nothing is replaced if it
    is loaded already.

    Args:
        name: the module to import.
        slow: the package that takes long, such as `scipy.signal`.
        **attributes: what `name` looks at when it is loaded.
    """
    if name in sys.modules or slow in sys.modules:
        return importlib.import_module(name)
    placeholder = ModuleType(slow)
    vars(placeholder).update(attributes)
    sys.modules[slow] = placeholder
    try:
        return importlib.import_module(name)
    finally:
        if sys.modules.get(slow) is placeholder:
            del sys.modules[slow]
        parent, _, child = slow.rpartition(".")
        if vars(sys.modules.get(parent, placeholder)).get(child) is placeholder:
            with suppress(AttributeError):
                delattr(sys.modules[parent], child)


def torchmetrics() -> ModuleType:
    """Import torchmetrics without scipy.signal, 0.8 s of work for one name that it adds there (`hamming`)."""
    return import_without("torchmetrics", "scipy.signal", hamming=None)

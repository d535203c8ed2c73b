"""Imports of a dependency without a slow package that it loads for nothing this project uses."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType, SimpleNamespace
from typing import Any


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


class _Later(ModuleType):
    """Stands in for a module, which is imported when something is looked up in it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or sys.modules.get(self.__name__) is self:
            raise AttributeError(f"module {self.__name__!r} is not loaded yet: it has no {name!r}")
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def later(modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Modules that are imported inside of the block are loaded when something is looked up in them.

    Nothing is replaced if one of them is loaded already.

    Args:
        modules: name -> what is looked up on loading, and what it is until the block ends.
    """
    if any(name in sys.modules for name in modules):
        yield
        return
    placeholders = {name: _Later(name) for name in modules}
    for name, placeholder in placeholders.items():
        vars(placeholder).update(modules[name])
        parent, _, child = name.rpartition(".")
        if parent in placeholders:
            setattr(placeholders[parent], child, placeholder)
    sys.modules.update(placeholders)
    try:
        yield
    finally:
        for name, placeholder in placeholders.items():
            if sys.modules.get(name) is placeholder:
                del sys.modules[name]
            for attribute in modules[name]:
                delattr(placeholder, attribute)


class _Style:
    """`matplotlib.pyplot.style` for decorators: the style is looked up when the function is called."""

    @staticmethod
    @contextmanager
    def context(style: object) -> Iterator[None]:
        """`matplotlib.pyplot.style.context`."""
        with importlib.import_module("matplotlib.pyplot").style.context(style):
            yield


_PLOTTING: dict[str, dict[str, object]] = {
    "matplotlib": {"colors": SimpleNamespace(Colormap=object)},
    "matplotlib.axes": {"Axes": object},
    "matplotlib.pyplot": {"Figure": object, "style": _Style},
}
"""What torchmetrics looks up in matplotlib on loading: types for annotations, and a decorator."""


def torchmetrics() -> ModuleType:
    """Import torchmetrics without scipy.signal and matplotlib.

    It needs scipy.signal (0.8 s of work) for one name that it adds there (`hamming`), and matplotlib (0.4 s) for plots
    of metrics, which load it when they are drawn.
    """
    with later({} if "torchmetrics" in sys.modules else _PLOTTING):
        return import_without("torchmetrics", "scipy.signal", hamming=None)

"""Selectors by name. Nothing is imported until its name is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_exp.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from zoo_exp.selectors.base import Selector

    SelectorType = TypeVar("SelectorType", bound=type[Selector])

ENTRY_POINT_GROUP = "zoo_exp.selectors"
_BUILT_IN = {
    "blind": "zoo_exp.selectors.sanity:Blind",
    "cdpruner": "zoo_exp.selectors.cdpruner:CDPruner",
    "cls_attention": "zoo_exp.selectors.cls_attention:ClsAttention",
    "dart": "zoo_exp.selectors.layer.dart:Dart",
    "divprune": "zoo_exp.selectors.divprune:DivPrune",
    "fastv": "zoo_exp.selectors.layer.fastv:FastV",
    "feature_norm": "zoo_exp.selectors.feature_norm:FeatureNorm",
    "full": "zoo_exp.selectors.sanity:Full",
    "hiprune": "zoo_exp.selectors.hiprune:HiPrune",
    "mmtok": "zoo_exp.selectors.mmtok:MMTok",
    "random": "zoo_exp.selectors.random:Random",
    "resize": "zoo_exp.selectors.resize:Resize",
    "scope": "zoo_exp.selectors.scope:Scope",
    "sparsevlm": "zoo_exp.selectors.layer.sparsevlm:SparseVLM",
    "text_attention": "zoo_exp.selectors.text_attention:TextAttention",
    "uniform_grid": "zoo_exp.selectors.uniform_grid:UniformGrid",
    "vispruner": "zoo_exp.selectors.vispruner:VisPruner",
    "visionzip": "zoo_exp.selectors.visionzip:VisionZip",
    "zoo": "zoo_exp.selectors.zoo:Zoo",
}
_registered: dict[str, type[Selector]] = {}


@dataclass(frozen=True)
class SelectorInfo:
    """What a listing says about a selector.

    Attributes:
        name: what a user types.
        needs: fields of `VisualTokens` that it looks at besides `projected`, with its default options.
        paper: where the rule comes from.
        summary: one line.
    """

    name: str
    needs: frozenset[str]
    paper: str
    summary: str


def available() -> list[str]:
    """Names of all selectors: built in, registered by the user, and installed as entry points."""
    return sorted({*_BUILT_IN, *_registered, *_installed()})


def get(name: str, **options: Any) -> Selector:
    """Build a selector.

    Raises:
        UnknownNameError: no selector, or no option, of that name.
        InvalidValueError: an option's value is not allowed.
    """
    selector = _find(name)
    fields = [f.name for f in dataclasses.fields(selector) if f.init]
    for option in options:
        if option not in fields:
            raise UnknownNameError(f"option of selector {name}", option, fields)
    try:
        return selector(**options)
    except TypeError as error:  # a value that the checks cannot even compare, such as rank="many"
        raise InvalidValueError(f"options {options} of selector {name}: {error}") from error


def describe() -> list[SelectorInfo]:
    """One line for each selector, in order of name."""
    return [_describe(name) for name in available()]


def register(selector: SelectorType) -> SelectorType:
    """Class decorator that makes a user's own selector known under its `name`.

    Raises:
        InvalidValueError: the name is empty or taken by another selector.
    """
    name = getattr(selector, "name", "")
    if not name:
        raise InvalidValueError(f"{selector.__name__} has no name: give the class an attribute `name`")
    same = _registered.get(name)
    if (
        name in _BUILT_IN
        or name in _installed()
        or (same is not None and same.__qualname__ != selector.__qualname__)
    ):
        raise InvalidValueError(
            f"a selector named '{name}' exists already: give {selector.__name__} another name"
        )
    _registered[name] = selector
    return selector


def _describe(name: str) -> SelectorInfo:
    selector = _find(name)
    summary = (selector.__doc__ or "").strip().partition("\n")[0]
    return SelectorInfo(name, selector().needs, selector.paper, summary)


def _find(name: str) -> type[Selector]:
    if name in _registered:
        return _registered[name]
    target = _BUILT_IN.get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        found: type[Selector] = getattr(import_module(module), attribute)
        return found
    loaders = _installed()
    if name in loaders:
        loaded: type[Selector] = loaders[name]()
        return loaded
    raise UnknownNameError("selector", name, available(), "List them: python -m zoo_exp list selectors")


@cache
def _installed() -> dict[str, Callable[[], Any]]:
    points: dict[str, Callable[[], Any]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in _BUILT_IN or point.name in points:
            raise InvalidValueError(
                f"the installed selector '{point.name}' ({point.value}) has a taken name: uninstall it"
            )
        points[point.name] = point.load
    return points

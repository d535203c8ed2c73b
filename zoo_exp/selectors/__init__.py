"""Strategies that decide which visual tokens stay: one file per method, found by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_exp import presets
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.registry import Registry, outline

if TYPE_CHECKING:
    from zoo_exp.selectors.base import Selector

    SelectorType = TypeVar("SelectorType", bound=type[Selector])

__all__ = ["REGISTRY", "SelectorInfo", "available", "describe", "get", "register", "resolve"]

REGISTRY: Registry[Any] = Registry(
    "selector",
    "zoo_exp.selectors",
    {
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
    },
    "List them: python -m zoo_exp list selectors",
)


@dataclass(frozen=True)
class SelectorInfo:
    """Description of a selector in listings.

    Attributes:
        name: name of the selector.
        needs: fields of `VisualTokens` that it reads in addition to `projected`, with its default options.
        paper: source publication.
        summary: one-line description.
    """

    name: str
    needs: frozenset[str]
    paper: str
    summary: str


def available() -> list[str]:
    """Names of all selectors: built-in, registered, and installed as entry points."""
    return sorted(REGISTRY.names())


def resolve(name: str, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Resolve the name of a selector or preset to a selector and options.

    A preset is a file in `configs/selector/`, such as `zoo_closed_form`, with a selector and its options; `options`
    override those of the preset.

    Raises:
        UnknownNameError: neither a selector nor a preset.
    """
    given = dict(options or {})
    if name in REGISTRY:
        return name, given
    preset = presets.find("selector", name)
    if preset is None:
        raise UnknownNameError("selector", name, {*available(), *presets.names("selector")}, REGISTRY.hint)
    stored = preset.get("options")
    return str(preset.get("selector", name)), {**(stored if isinstance(stored, dict) else {}), **given}


def get(name: str, **options: Any) -> Any:
    """Build a selector.

    Args:
        name: name of a selector, or of a preset in `configs/selector/`.
        **options: values of the selector's fields.

    Raises:
        UnknownNameError: unknown selector or option.
        InvalidValueError: an option has an invalid value.
    """
    name, options = resolve(name, options)
    selector = REGISTRY.load(name)
    if not (isinstance(selector, type) and dataclasses.is_dataclass(selector)):
        raise InvalidValueError(
            f"selector {name} is {selector!r}: it must be a dataclass derived from Selector"
        )
    fields = [f.name for f in dataclasses.fields(selector) if f.init]
    for option in options:
        if option not in fields:
            raise UnknownNameError(f"option of selector {name}", option, fields)
    try:
        return selector(**options)
    except TypeError as error:  # e.g. rank="many", which cannot be compared with a number
        raise InvalidValueError(f"options {options} of selector {name}: {error}") from error


def describe(name: str | None = None) -> list[SelectorInfo]:
    """Describe all selectors, sorted by name, or a single one; built-in selectors are not imported."""
    return [_describe(one) for one in (available() if name is None else [name])]


def register(selector: SelectorType) -> SelectorType:
    """Class decorator that registers a custom selector under its `name`.

    Raises:
        InvalidValueError: the name is empty or taken by another selector.
    """
    REGISTRY.add(getattr(selector, "name", ""), selector)
    return selector


def _describe(name: str) -> SelectorInfo:
    if name in REGISTRY.built_in:
        facts = outline(REGISTRY.built_in[name], {"NEEDS": frozenset(), "paper": ""})
        return SelectorInfo(name, facts["NEEDS"], facts["paper"], facts["summary"])
    selector = get(name)
    summary = (type(selector).__doc__ or "").strip().partition("\n")[0]
    return SelectorInfo(name, selector.needs, selector.paper, summary)

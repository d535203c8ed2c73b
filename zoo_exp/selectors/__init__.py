"""Strategies that decide which visual tokens stay: one file per method, found by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_exp import presets
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.registry import (
    Registry,
    is_code_file,
    load_file,
    meanings_of,
    outline,
    read_code,
    split_code_file,
)

if TYPE_CHECKING:
    from zoo_exp.selectors.base import Selector

    SelectorType = TypeVar("SelectorType", bound=type[Selector])

__all__ = [
    "REGISTRY",
    "SelectorInfo",
    "available",
    "describe",
    "from_file",
    "get",
    "option_lines",
    "options_of",
    "register",
    "resolve",
    "unknown_option",
]

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
    "List them: python -m zoo_exp list selectors. Your own: selector=FILE.py:CLASS, or an installed package with the "
    "entry point zoo_exp.selectors (docs/adding_a_selector.md)",
)


MOST_SELECTORS = 4
"""Selectors whose options one message names."""


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

    A preset is a file in `configs/selector/`, such as `zoo_closed_form`, with a selector and its options.
    `FILE.py:CLASS` is resolved by `from_file`.

    Args:
        name: the name.
        options: options that override those of the preset.

    Returns:
        The name of the selector, and its options.

    Raises:
        UnknownNameError: neither a selector nor a preset.
        InvalidValueError, MissingFileError: see `from_file`.
    """
    given = dict(options or {})
    if is_code_file(name):
        return from_file(name), given
    if name in REGISTRY:
        return name, given
    preset = presets.find("selector", name)
    if preset is None:
        raise UnknownNameError("selector", name, {*available(), *presets.names("selector")}, REGISTRY.hint)
    stored = preset.get("options")
    return str(preset.get("selector", name)), {**(stored if isinstance(stored, dict) else {}), **given}


def options_of(name: str) -> list[str]:
    """Names of the options of a selector or preset; empty for one that is no dataclass."""
    selector = REGISTRY.load(resolve(name)[0])
    if not (isinstance(selector, type) and dataclasses.is_dataclass(selector)):
        return []
    return [item.name for item in dataclasses.fields(selector) if item.init]


def option_lines(name: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each option of a selector or preset.

    The meanings are those of the docstring's section `Attributes:` (or `Args:`), of the class or of a base class.
    """
    resolved, preset = resolve(name)
    meanings = meanings_of(REGISTRY.load(resolved))
    built = get(name)
    return [
        (option, str(preset.get(option, getattr(built, option))), meanings.get(option, ""))
        for option in options_of(name)
    ]


def unknown_option(option: str, having: Mapping[str, Sequence[str]]) -> UnknownNameError:
    """The error for an option that none of some selectors has.

    Args:
        option: as given.
        having: selector -> names of its options.
    """
    more = f"Their values: python -m zoo_exp list selectors {next(iter(having))}."
    if len(having) == 1:
        ((name, names),) = having.items()
        return UnknownNameError(f"option of selector {name}", option, names, more)
    # The selector whose option was meant comes first.
    by_nearness = sorted(
        having, key=lambda name: (not get_close_matches(option, having[name], cutoff=0.5), -len(having[name]))
    )
    told = [f"{name} has {', '.join(having[name]) or 'no options'}" for name in by_nearness[:MOST_SELECTORS]]
    if len(having) > MOST_SELECTORS:
        told.append(f"{len(having) - MOST_SELECTORS} more selectors have others")
    more = f"{'; '.join(told)}. Their values: python -m zoo_exp list selectors {by_nearness[0]}."
    known = {name for names in having.values() for name in names}
    return UnknownNameError("option of these selectors", option, known, more, shown=())


def get(name: str, **options: Any) -> Any:
    """Build a selector.

    Args:
        name: name of a selector, of a preset in `configs/selector/`, or `FILE.py:CLASS`.
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
    fields = options_of(name)
    for option in options:
        if option not in fields:
            raise unknown_option(option, {name: fields})
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


def from_file(name: str) -> str:
    """Register a selector class of a user's own file under its `name`, and return that.

    Args:
        name: `FILE.py:CLASS`, or `FILE.py` for a file with one selector class; the path is relative to the current
            folder.

    Raises:
        MissingFileError: no such file.
        UnknownNameError: the file has no class of that name.
        InvalidValueError: the file cannot be imported, has no selector class or several, or the class is no selector
            or has the name of another one.
    """
    path, wanted = split_code_file(name)
    read_code(path)  # a missing file is refused before torch is imported
    from zoo_exp.selectors.base import Selector
    from zoo_exp.selectors.layer.base import LayerSelector

    module = load_file(path)
    how = "derive a class from zoo_exp.selectors.base.ScoreSelector (docs/adding_a_selector.md)"
    items = vars(module)
    classes = {
        key: item
        for key, item in items.items()
        if isinstance(item, type)
        and issubclass(item, (Selector, LayerSelector))
        and item.__module__ == module.__name__
    }
    if wanted and wanted not in classes:
        if wanted not in items and classes:
            raise UnknownNameError("selector class", wanted, classes, f"(in {path})")
        if wanted in items:
            kind = "class" if isinstance(items[wanted], type) else type(items[wanted]).__name__
            raise InvalidValueError(f"{wanted} in {path} is a {kind} but no selector of that file: {how}")
    if not classes:
        raise InvalidValueError(f"{path} has no selector: {how}")
    # A base class that several selectors of the file share has no name.
    named = {key: item for key, item in classes.items() if item.name} or classes
    if not wanted and len(named) > 1:
        first, *_ = sorted(named)
        raise InvalidValueError(
            f"{path} has several selectors ({', '.join(sorted(named))}): name one, such as {path}:{first}"
        )
    chosen = classes[wanted] if wanted else next(iter(named.values()))
    REGISTRY.add(chosen.name, chosen)
    return chosen.name


def _describe(name: str) -> SelectorInfo:
    if name in REGISTRY.built_in:
        facts = outline(REGISTRY.built_in[name], {"NEEDS": frozenset(), "paper": ""})
        return SelectorInfo(name, facts["NEEDS"], facts["paper"], facts["summary"])
    selector = get(name)
    summary = (type(selector).__doc__ or "").strip().partition("\n")[0]
    return SelectorInfo(name, selector.needs, selector.paper, summary)

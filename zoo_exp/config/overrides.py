"""Command-line overrides in Hydra's grammar; every key is checked against the schema first.

`budget`, `selector`, `selector.*`, `task`, `task.metric` and `exp` are special: they replace lists of the experiment
(budgets, arms, tasks). Every other key is a field of the schema or a group choice. `key=`, `+key=` and `++key=` mean
the same, since the schema defines which keys exist.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from zoo_exp.config import folders
from zoo_exp.config.schema import ArmConfig, RunConfig
from zoo_exp.errors import InvalidValueError, UnknownNameError, ZooExpError

WORDS = ("budget", "exp", "selector", "task")
KEYS = (*WORDS, *(item.name for item in fields(RunConfig)))
"""First parts of all keys."""
_UNSET: Any = object()
_UNQUOTED = re.compile(
    r"""(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
    r"""|(?<=[=\[,\s])(?P<budget><=\s*\d+(?:/\w+)?)(?=\s*(?:[,\]]|$))"""
    r"""|(?<==)(?P<path>~(?:/[^'",\[\]{}]*)?)$"""
)
"""Quoted text, which is skipped; a budget such as <=64/tile as a value or in a list; a path such as ~/a/path."""


@dataclass
class Request:
    """A parsed command line."""

    choices: list[str] = field(default_factory=list)
    """Group choices such as `model=embedded`, in Hydra's grammar."""
    values: list[Override] = field(default_factory=list)
    """Overrides of single keys, in their order."""
    exp: str | None = None
    tasks: list[str] | None = None
    task_metric: str | None = None
    """`task.metric=`: how the task files among the tasks are scored."""
    selectors: list[str] | None = None
    selector_settings: dict[str, Any] = field(default_factory=dict)
    """Values of `selector.seeds=` and similar overrides, by field of `ArmConfig`."""
    selector_options: dict[str, Any] = field(default_factory=dict)
    budgets: list[Any] | None = None
    notes: list[str] = field(default_factory=list)
    """What a user should know of how the overrides were applied."""


def parse(texts: Sequence[str], search_path: Sequence[Path] | None = None) -> list[Override]:
    """Parse overrides.

    Args:
        texts: the overrides of the command line.
        search_path: configuration folders for suggestions; the built-in one by default.

    Raises:
        InvalidValueError: a text that is not `key=value`, or that deletes or moves a key.
    """
    parsed: list[Override] = []
    for text in texts:
        if text.startswith("~"):
            raise InvalidValueError(f"override '{text}': nothing can be deleted; {text[1:]}=null empties it")
        if "=" not in text:
            raise InvalidValueError(f"override '{text}' is not key=value: {_meant(text, search_path)}")
        try:
            override = OverridesParser.create().parse_override(_quote(text))
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise InvalidValueError(
                f"override '{text}' is not key=value: {reason} (example: budget=64, or out='a folder')"
            ) from None
        if override.package is not None or not override.key_or_group:
            raise InvalidValueError(f"override '{text}' is not key=value (example: model=embedded)")
        parsed.append(override)
    return parsed


def _quote(text: str) -> str:
    """Quote <=64 and ~/a/path as Hydra's grammar requires; a shell has removed the user's quotes.

    >>> _quote("budget=[<=64,32]"), _quote("out=~/runs")
    ("budget=['<=64',32]", "out='~/runs'")
    """
    return _UNQUOTED.sub(lambda found: found["quoted"] or f"'{found[0]}'", text)


def _meant(text: str, search_path: Sequence[Path] | None) -> str:
    """A suggestion for a word without a value, such as the name of an experiment or a key alone."""
    from zoo_exp import selectors, tasks

    word, places = text.lstrip("+"), folders.search_path() if search_path is None else search_path
    names = {
        "+exp": folders.choices("exp", places),
        "model": folders.choices("model", places),
        "selector": {*folders.choices("selector", places), *selectors.available()},
        "task": {*folders.choices("task", places), *tasks.available()},
    }
    # The first kind that has the name is suggested.
    typed = {name: f"{key}={name}" for key, found in reversed(names.items()) for name in found}
    typed |= {key: f"{key}=VALUE" for key in KEYS}
    if word in typed:
        return f"type {typed[word]}"
    close = get_close_matches(word, sorted(typed), n=1)
    return f"did you mean {typed[close[0]]}?" if close else "for example budget=64, or out='a folder'"


def plain(value: Any) -> Any:
    """Convert a parsed value to plain Python types."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(entry) for key, entry in value.items()}
    return value


def read(texts: Sequence[str], search_path: Sequence[Path]) -> Request:
    """Parse a command line without sweeps and check every key and group choice.

    Raises:
        UnknownNameError: one key or choice that does not exist.
        InvalidValueError: a malformed override, or a list of several problems.
    """
    request, problems = Request(), []
    for override in parse(texts, search_path):
        try:
            _take(override, request, search_path)
        except ZooExpError as error:
            problems.append(error)
    if (request.selector_settings or request.selector_options) and request.selectors is None and not problems:
        problems.append(InvalidValueError("selector.* sets fields of a selector: add selector=NAME"))
    raise_all(problems)
    return request


def raise_all(problems: Sequence[ZooExpError]) -> None:
    """Raise a single problem unchanged and several problems as one error that lists them."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InvalidValueError("\n".join(f"- {problem}" for problem in problems))


def _take(override: Override, request: Request, search_path: Sequence[Path]) -> None:
    """Add one override to the request."""
    key, value = override.key_or_group, plain(override.value())
    text = str(override.input_line).lstrip("+")
    if key == "exp":
        request.exp = _name(text, value)
        folders.read(folders.find("exp", request.exp, search_path))
    elif key == "task":
        request.tasks = _names(text, value)
    elif key == "task.metric":
        request.task_metric = _name(text, value)
    elif key.startswith("task."):
        raise UnknownNameError("config key", key, ["task.metric"])
    elif key == "selector":
        request.selectors = _names(text, value)
    elif key == "budget":
        request.budgets = value if isinstance(value, list) else [value]
        if not request.budgets or None in request.budgets:
            raise InvalidValueError(f"override '{text}': give a count (64), a keep ratio (11.1%), or [64,32]")
    elif key == "selector.options":
        if not isinstance(value, dict):
            raise InvalidValueError(f"override '{text}': give selector.options.KEY=VALUE")
        request.selector_options |= value
    elif key.startswith("selector.options."):
        request.selector_options[key.removeprefix("selector.options.")] = value
    elif key.startswith("selector."):
        allowed = [item.name for item in fields(ArmConfig) if item.name != "selector"]
        name = key.removeprefix("selector.")
        if name not in allowed:
            option = f"selector.options.{name.rpartition('.')[2]}"
            names = [option if item == "options" else f"selector.{item}" for item in allowed]
            raise UnknownNameError(
                "config key", key, names, "Options of a selector: python -m zoo_exp list selectors NAME."
            )
        request.selector_settings[name] = value
    elif key in folders.GROUPS:
        folders.read(folders.find(key, _name(text, value), search_path))
        request.choices.append(text)
    else:
        check_key(key)
        request.values.append(override)


def check_key(key: str) -> None:
    """Check that the schema has this dotted key.

    Raises:
        UnknownNameError: unknown key; the message suggests the nearest key of the same level.
    """
    level: Any = RunConfig
    parts = key.split(".")
    for depth, part in enumerate(parts):
        names = [item.name for item in fields(level)]
        above = "".join(f"{parent}." for parent in parts[:depth])
        if part not in names:
            words = WORDS if depth == 0 else ()
            raise UnknownNameError("config key", key, [f"{above}{name}" for name in (*names, *words)])
        inner = next((node for name, node in _nodes(level) if name == part), _UNSET)
        if inner is _UNSET:
            if depth + 1 < len(parts) and not (depth == 0 and part == "sweep"):
                raise UnknownNameError("config key", key, [f"{above}{part}"], f"{above}{part} is a value.")
            return
        level = inner


def _nodes(schema: Any) -> Iterator[tuple[str, Any]]:
    """Nested schemas of a schema."""
    for item in fields(schema):
        factory: Any = item.default_factory
        if is_dataclass(factory):
            yield item.name, factory


def _name(text: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValueError(f"override '{text}': one name is expected, got {value!r}")
    return value


def _names(text: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise InvalidValueError(f"override '{text}': at least one name is expected")
    return [_name(text, name) for name in names]

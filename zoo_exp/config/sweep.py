"""The points of a sweep: one list of overrides per run, all of them composed before the first one runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from zoo_exp.config import folders, overrides
from zoo_exp.config.arms import refuse_code
from zoo_exp.config.compose import compose, run_config
from zoo_exp.config.experiment import Experiment
from zoo_exp.errors import InvalidValueError, ZooExpError

MAX_POINTS = 10_000


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its overrides and its experiment."""

    overrides: tuple[str, ...]
    experiment: Experiment


def points(texts: Sequence[str], config_dirs: Sequence[str | Path] = (), sweep: bool = False) -> list[Point]:
    """One point per combination of the swept values, the last axis fastest.

    Axes are the comma-separated values of the command line (`budget=64,32`) and the `sweep:` node of the experiment
    file; an axis on the command line replaces the one of the same key there. Without `sweep` there is one point.

    `model=[a,b]` is an axis as well, with and without `sweep`: an experiment has one model.

    Raises:
        InvalidValueError: comma-separated values without `-m`, an empty axis, more than `MAX_POINTS` points, or an
            invalid point.
        UnknownNameError, MissingFileError: see `compose`.
    """
    parsed = overrides.parse(texts, folders.search_path(config_dirs))
    swept = [override for override in parsed if override.is_sweep_override()]
    models = _models(parsed)
    if not sweep:
        if swept:
            text = texts[parsed.index(swept[0])]
            key, _, value = text.partition("=")
            table = (
                f"'[{value}]'" if "<" in value else f"[{value}]"
            )  # unquoted, a shell would read from a file
            raise InvalidValueError(
                f"{text} has several values: add -m for one run per value, or write {key}={table} for one table"
            )
        if not models:
            return [Point(tuple(texts), compose(texts, config_dirs))]
    lists = [override for override in parsed if override.key_or_group == "model" and models]
    fixed = [
        str(override.input_line)
        for override in parsed
        if not override.is_sweep_override() and override not in lists
    ]
    axes = {"model": models} if models else {}
    axes |= {override.get_key_element(): _swept(override) for override in swept}
    given = {override.get_key_element().lstrip("+") for override in parsed}
    for key, values in run_config(fixed, config_dirs).sweep.items() if sweep else ():
        if key not in given:
            axes[key] = _texts(key, values)
            _refuse_code(key, axes[key])
    if math.prod(map(len, axes.values())) > MAX_POINTS:
        raise InvalidValueError(f"the sweep has more than {MAX_POINTS} points: give fewer values")
    return [_point([*fixed, *combination], config_dirs) for combination in _combinations(axes)]


def _models(parsed: Sequence[Override]) -> list[str]:
    """The names of `model=[a,b]`; empty without such a list.

    Raises:
        InvalidValueError: an empty list, a repeated name, or something else than names.
    """
    given = [override for override in parsed if override.key_or_group == "model"]
    value = overrides.plain(given[-1].value()) if given and not given[-1].is_sweep_override() else None
    if not isinstance(value, list):
        return []
    text = str(given[-1].input_line)
    if not value or not all(isinstance(name, str) and name for name in value):
        raise InvalidValueError(f"override '{text}': a list of names of models is expected: model=[a,b]")
    repeated = [name for name in value if value.count(name) > 1]
    if repeated:
        raise InvalidValueError(f"override '{text}': {repeated[0]} is listed twice")
    return value


def _swept(override: Override) -> list[str]:
    """The values of a swept override, in Hydra's grammar; one more than allowed where there are too many.

    Raises:
        InvalidValueError: a sweep without a list of values, such as `glob(*)`, or an endless one.
    """
    try:
        values = override.sweep_string_iterator()
        return [str(value) for value in itertools.islice(values, MAX_POINTS + 1)]
    except (HydraException, ValueError, TypeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidValueError(
            f"override '{override.input_line}': {reason}; give values such as 64,32"
        ) from None


def _combinations(axes: dict[str, list[str]]) -> list[tuple[str, ...]]:
    named = [[f"{key}={value}" for value in values] for key, values in axes.items()]
    return list(itertools.product(*named))


def _point(texts: Sequence[str], config_dirs: Sequence[str | Path]) -> Point:
    try:
        return Point(tuple(texts), compose(texts, config_dirs))
    except ZooExpError as error:
        error.args = (f"{error}\n(at the point: {' '.join(texts)})",)
        raise


def _texts(key: str, values: Any) -> list[str]:
    """The values of an axis in a `sweep:` node, in Hydra's grammar."""
    if isinstance(values, str):
        values = [value.strip() for value in values.split(",")]
    if not isinstance(values, list) or not values:
        raise InvalidValueError(f"sweep.{key}: a list of values is expected, got {values!r}")
    return [as_text(value) for value in values]


def _refuse_code(key: str, texts: Sequence[str]) -> None:
    """Refuse Python files among the selectors of a `sweep:` node, as in the arms of such a file."""
    for text in texts if key == "selector" else ():
        (override,) = overrides.parse([f"selector={text}"])
        value = overrides.plain(override.value())
        for name in value if isinstance(value, list) else [value]:
            refuse_code(str(name))


def as_text(value: Any) -> str:
    """A value in Hydra's grammar.

    >>> as_text([64, "11.1%", None, {"a": True}])
    '[64,11.1%,null,{a:true}]'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_text(entry)}' for key, entry in value.items())}}}"
    text = str(value)
    if isinstance(value, str) and not all(char.isalnum() or char in "_-./%@:+" for char in text):
        return QuotedString(text, Quote.single).with_quotes()
    return text

"""What an arm retains of the full-token run over a named set of benchmarks, and what the image adds."""

from collections.abc import Mapping, Sequence
from math import fsum, inf

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.tasks import get

_NINE = ("gqa", "mmbench", "mme", "pope", "scienceqa", "vqav2", "textvqa", "mmmu", "seedbench")
SETS: dict[str, tuple[str, ...]] = {
    # The paper's main tables.
    "nine": _NINE,
    # The paper's Table D.
    "eight_without_vqav2": tuple(family for family in _NINE if family != "vqav2"),
    # The benchmarks that lose most without the image (spec: literature 3.6).
    "high_image_contribution": ("gqa", "mmbench", "mme", "pope", "seedbench"),
    "seven_without_mmmu_seed": tuple(family for family in _NINE if family not in ("mmmu", "seedbench")),
}


def retained(values: Mapping[str, float], full: Mapping[str, float], names: str | Sequence[str]) -> float:
    """Mean over benchmarks of value / full value, in percent: the papers' "Avg.".

    Args:
        values: Task (or family) -> main metric of the arm.
        full: The same of the full-token run in the same harness.
        names: A set's name (`SETS`), or the benchmarks themselves.

    Raises:
        UnknownNameError: no such set.
        InvalidValueError: a benchmark is missing or there twice, or its full value is not above 0.
    """
    if isinstance(names, str):
        if names not in SETS:
            raise UnknownNameError("set of benchmarks", names, SETS)
        wanted: Sequence[str] = SETS[names]
    else:
        wanted = names
    if not wanted:
        raise InvalidValueError("a retained average needs at least one benchmark")
    ratios = [
        _value(values, name, "the arm") / _positive(_value(full, name, "the full run"), name)
        for name in wanted
    ]
    return 100 * fsum(ratios) / len(ratios)


def covers(tasks: Sequence[str], name: str) -> bool:
    """Whether the tasks have every benchmark of a set exactly once."""
    families = [_family(task) for task in tasks]
    return all(families.count(family) == 1 for family in SETS[name])


def image_contribution(full: float, blind: float) -> float:
    """What the image adds to the value without it: (full - blind) / blind, infinite where blind is 0."""
    if blind == 0:
        return inf if full > 0 else 0.0
    return (full - blind) / blind


def _family(task: str) -> str:
    return task if task in _NINE else get(task).family


def _value(values: Mapping[str, float], name: str, whose: str) -> float:
    found = [task for task in values if name in (task, _family(task))]
    if len(found) != 1:
        what = f"{', '.join(found)} (give one of them)" if found else f"none (it has {', '.join(values)})"
        raise InvalidValueError(f"retained average: {whose} needs one value for '{name}', and has {what}")
    return values[found[0]]


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise InvalidValueError(f"retained average: the full run's value of '{name}' is {value}, not above 0")
    return value

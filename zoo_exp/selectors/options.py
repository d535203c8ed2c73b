"""Validation of option values, for input and layer selectors."""

from collections.abc import Iterable
from typing import Any

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.errors import InvalidValueError


def one_of(selector: Any, option: str, allowed: Iterable[object]) -> None:
    """Check that an option has one of the allowed values.

    Raises:
        InvalidValueError: it has another value.
    """
    value, allowed = getattr(selector, option), tuple(allowed)
    if value not in allowed:
        _refuse(selector, option, f"allowed are {', '.join(map(str, allowed))}")


def positive(selector: Any, option: str, kind: type = float) -> None:
    """Check that an option is a positive finite number (a whole number if `kind` is int).

    Raises:
        InvalidValueError: it is not.
    """
    value = getattr(selector, option)
    fits = _is_whole(value) if kind is int else _is_number(value)
    if not fits or not 0 < value < float("inf"):
        _refuse(
            selector, option, "must be a whole number above 0" if kind is int else "must be a number above 0"
        )


def at_least(selector: Any, option: str, least: int) -> None:
    """Check that an option is a whole number of at least `least`.

    Raises:
        InvalidValueError: it is not.
    """
    value = getattr(selector, option)
    if not _is_whole(value) or value < least:
        _refuse(selector, option, f"must be a whole number of at least {least}")


def share(selector: Any, option: str, *, below_one: bool = False) -> None:
    """Check that an option is a number from 0 to 1 (without 1 if `below_one`).

    Raises:
        InvalidValueError: it is not.
    """
    value = getattr(selector, option)
    if not _is_number(value) or not 0 <= value <= 1 or (below_one and value == 1):
        _refuse(selector, option, f"must lie between 0 and {'below 1' if below_one else '1'}")


def exponent(selector: Any, option: str) -> None:
    """Check that an option is a finite number of at least 0.

    Raises:
        InvalidValueError: it is not.
    """
    value = getattr(selector, option)
    if not _is_number(value) or not 0 <= value < float("inf"):
        _refuse(selector, option, "must be a number of at least 0")


def required_budget(budget: BudgetLike, name: str, *, tiles: bool = False) -> Budget:
    """Parse a budget that must be given.

    Args:
        budget: the budget as given.
        name: name of the selector, for messages.
        tiles: whether the selector supports budgets per tile.

    Raises:
        InvalidValueError: no budget was given, it is invalid, or it is a budget per tile or per frame that the selector
            does not support.
    """
    if budget is None:
        raise InvalidValueError(
            f"selector {name} needs a budget: a number of tokens (64) or a keep ratio (11.1%)"
        )
    parsed = Budget.parse(budget)
    if parsed.per in ("tile", "frame") and not tiles:
        total = (
            "image, such as the total of five tiles"
            if parsed.per == "tile"
            else "prompt, for all frames together"
        )
        raise InvalidValueError(
            f"budget {budget} of selector {name}: layer selectors do not support budgets per {parsed.per}; give a "
            f"number per {total}"
        )
    return parsed


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(selector: Any, option: str, problem: str) -> None:
    raise InvalidValueError(f"{option} {getattr(selector, option)!r} of selector {selector.name}: {problem}")


def describes(selector: object, formula: str, work: Iterable[str]) -> bool:
    """Whether a FLOPs formula applies to an object.

    It does not if a subclass overrides a method that the formula describes without overriding the formula.

    Args:
        selector: an input or layer selector.
        formula: name of the method with the formula.
        work: names of the methods that the formula describes.
    """
    classes = type(selector).__mro__

    def depth(name: str) -> int:
        return next((i for i, c in enumerate(classes) if name in vars(c)), len(classes))

    return depth(formula) <= min(map(depth, work))

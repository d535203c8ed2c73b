"""The contract suite with the result of every check, for readers; `check_selector` stops at the first failure."""

import traceback
from collections.abc import Iterator
from typing import NamedTuple

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.selectors.base import Selector
from zoo_exp.testing.contract import CHECKS, ContractError


class Outcome(NamedTuple):
    """Result of one check.

    Attributes:
        name: name of the check.
        summary: what it checks, in one sentence.
        error: what is wrong; None if the selector passed.
    """

    name: str
    summary: str
    error: ZooExpError | None


def outcomes(selector: object) -> Iterator[Outcome]:
    """Run all `CHECKS` on a selector, one after the other; a failure does not stop the rest.

    Args:
        selector: a selector that works before the language model.

    Raises:
        InvalidValueError: a layer selector, which the suite does not check.
    """
    if not isinstance(selector, Selector):
        name = getattr(selector, "name", type(selector).__name__)
        raise InvalidValueError(
            f"{name} selects between layers of the language model: the contract suite checks selectors that work "
            "before it (classes derived from zoo_exp.selectors.base.Selector)"
        )
    for name, check in CHECKS.items():
        error: ZooExpError | None = None
        try:
            check(selector)
        except ZooExpError as problem:
            error = problem
        except Exception as problem:  # the selector's own code may raise anything
            error = ContractError(f"selector {selector.name} ({selector}): {_raised(problem)}")
        yield Outcome(name, " ".join((check.__doc__ or "").split()), error)


def _raised(error: Exception) -> str:
    """Type, message and place of an exception: the last line of the traceback outside of installed packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {message} ({own[-1].filename}, line {own[-1].lineno})"

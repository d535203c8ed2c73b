"""Types of the columns of a benchmark: rows of data sets and of prediction files are untrusted."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from zoo_exp.errors import InvalidValueError

MOST_OPTIONS = 26
"""Options of a question: one for each letter."""


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        words: what messages call it.
        optional: whether null (or NaN, which tables have in its place) is allowed.
    """

    words: str
    optional: bool = False

    def fits(self, value: object) -> bool:
        """Whether a value is of this kind."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return self.optional
        return _FITS[self.words](value)


TEXT, TEXT_OR_NOTHING = Kind("a text"), Kind("a text", optional=True)
ID, ID_OR_NOTHING = Kind("a text or a whole number"), Kind("a text or a whole number", optional=True)
NUMBER = Kind("a whole number")
SCALAR_OR_NOTHING = Kind("a text or a number", optional=True)
TEXTS = Kind("a list of texts")
CHOICES = Kind("a list of 1 to 26 texts")
OPTIONS = Kind("a list of texts, or its Python text")
ANSWERS = Kind("a list of the annotators' answers (texts, or objects with the text `answer`)", optional=True)
TEXT_OR_TEXTS = Kind("a text or a list of texts")


class OneOf(NamedTuple):
    """One of some texts."""

    allowed: tuple[str, ...]

    @property
    def words(self) -> str:
        """What messages call it."""
        return " or ".join(map(repr, self.allowed))

    def fits(self, value: object) -> bool:
        """Whether a value is one of them."""
        return isinstance(value, str) and value in self.allowed


Columns = Mapping[str, "Kind | OneOf"]


def check_columns(kinds: Columns, doc: Mapping[str, Any], where: str) -> None:
    """Refuse a row with a value of another type; columns that it lacks are not looked at.

    Args:
        kinds: column -> what it must hold.
        doc: the row.
        where: task and sample, for the error.

    Raises:
        InvalidValueError: names the column, what it holds, and what it must hold.
    """
    for name, kind in kinds.items():
        if name in doc and not kind.fits(doc[name]):
            shown = " ".join(repr(doc[name])[:60].split())
            raise InvalidValueError(
                f"{where}: {name} must be {kind.words}, got {type(doc[name]).__name__} ({shown})"
            )


def _id(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _annotators(value: object) -> bool:
    """TextVQA stores the answers, VQAv2 an object with each."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(one.get("answer") if isinstance(one, dict) else one, str) for one in value
    )


_FITS: dict[str, Any] = {
    TEXT.words: lambda value: isinstance(value, str),
    ID.words: _id,
    NUMBER.words: lambda value: (
        (isinstance(value, int) and not isinstance(value, bool))
        or (isinstance(value, float) and value.is_integer())
        or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value) is not None)
    ),
    SCALAR_OR_NOTHING.words: lambda value: isinstance(value, (str, int, float)),
    TEXTS.words: _texts,
    CHOICES.words: lambda value: _texts(value) and 0 < len(value) <= MOST_OPTIONS,
    OPTIONS.words: lambda value: isinstance(value, str) or _texts(value),
    ANSWERS.words: _annotators,
    TEXT_OR_TEXTS.words: lambda value: isinstance(value, str) or _texts(value),
}

"""`Scale`: unit and range of a metric."""

from dataclasses import dataclass
from math import inf
from typing import Literal


@dataclass(frozen=True)
class Scale:
    """Unit and range of a task's metrics, which determine how its numbers are displayed.

    Attributes:
        unit: `fraction` (0 to 1, displayed in percent), `percent`, `points`, or `answers` (a count, no score).
        maximum: the best possible value, infinite for a count.
    """

    unit: Literal["fraction", "percent", "points", "answers"]
    maximum: float

    @property
    def factor(self) -> float:
        """Display factor: fractions are shown in percent."""
        return 100.0 if self.unit == "fraction" else 1.0

    def __str__(self) -> str:
        """The range as text: `0-1`, `0-100`, `points of 2800`, `answers`."""
        words = {"points": f"points of {self.maximum:g}", "answers": "answers"}
        return words.get(self.unit, f"0-{self.maximum:g}")


FRACTION = Scale("fraction", 1.0)
PERCENT = Scale("percent", 100.0)
ANSWERS = Scale("answers", inf)

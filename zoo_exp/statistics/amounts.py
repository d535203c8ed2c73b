"""What units contribute to the sums of a task, as numbers of distinct contributions: a few bytes per unit and arm."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo_exp.runs.packed import coded, smallest
from zoo_exp.statistics.intervals import Floats

MOST = 2**16
"""Contributions whose repetitions are found; a continuous score has more, and each of its values is kept."""


class Amounts:
    """Distinct contributions of units: a score, and amounts of named sums. Number 0 is that of a unit without any."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self._scores = array("d", [math.nan])
        self._sums: dict[str, array[float]] = {}

    def number(self, score: float, counts: Mapping[str, float]) -> int:
        """Number of a contribution."""
        key = score, *counts.items()
        number = self._known.get(key)
        if number is None:
            number = len(self._scores)
            self._scores.append(score)
            for name in counts:
                if name not in self._sums:
                    self._sums[name] = array("d", [math.nan]) * number
            for name, amounts in self._sums.items():
                amounts.append(counts.get(name, math.nan))
            if len(self._known) == MOST:
                self._known.clear()
            self._known[key] = number
        return number

    def joined(self, number: int, score: float, counts: Mapping[str, float]) -> int:
        """Number of the contribution of a unit that has one already; its score is the new one."""
        old = {name: own[number] for name, own in self._sums.items() if not math.isnan(own[number])}
        return self.number(score, old | {name: old.get(name, 0.0) + own for name, own in counts.items()})

    @property
    def names(self) -> list[str]:
        """Names of the sums, sorted."""
        return sorted(self._sums)

    def scores(self) -> Floats:
        """Score by number; nan for number 0."""
        return np.array(self._scores)

    def amounts(self, name: str) -> Floats:
        """Amount of a sum by number; 0 where it has none."""
        amounts = np.array(self._sums[name])
        return np.where(np.isnan(amounts), 0.0, amounts)

    def totals(self, numbers: NDArray[Any]) -> dict[str, float]:
        """Correctly rounded sums over units, as `tasks.base.exact_sums` gives them; only sums with amounts."""
        often = np.bincount(numbers, minlength=1)
        used = np.flatnonzero(often)
        found = {}
        for name, own in self._sums.items():
            amounts = np.array(own)[used]
            known = ~np.isnan(amounts)
            if known.any():
                found[name] = _exact(amounts[known].tolist(), often[used][known].tolist())
        return found


def _exact(values: Sequence[float], often: Sequence[int]) -> float:
    if not all(map(math.isfinite, values)):
        return math.fsum(value * count for value, count in zip(values, often, strict=True))
    terms = (Fraction(value) * count for value, count in zip(values, often, strict=True))
    return float(sum(terms, Fraction(0)))


class Coded(NamedTuple):
    """Numbers that repeat: `table[codes]`.

    Attributes:
        table: the distinct numbers; None if nearly all are distinct, which `codes` then holds.
        codes: one per number, in the smallest type.
    """

    table: Floats | None
    codes: NDArray[Any]

    @classmethod
    def of(cls, values: Floats) -> "Coded":
        """From the numbers."""
        table, codes = coded(values)
        return cls(table, codes) if codes.nbytes + table.nbytes < values.nbytes else cls(None, values)

    def at(self, places: NDArray[Any]) -> Floats:
        """Numbers at some places."""
        return np.asarray(self.codes[places] if self.table is None else self.table[self.codes[places]])


def narrow(numbers: NDArray[np.int64], highest: int) -> NDArray[Any]:
    """Whole numbers from 0 to `highest` in the smallest type."""
    return numbers.astype(smallest(highest))


@dataclass(frozen=True)
class ImageSums:
    """Contributions of G images to K sums under A arms, computed for some images at a time: `sums[start:stop]`.

    Attributes:
        names: of the sums of the task; behind these K - 2 are the sum of the scores of the questions, and their number.
        amounts: what the units contribute.
        units_of: number in `amounts` of each unit, by arm [A][U].
        unit_images: image of each unit [U].
        scores: score of each question, by arm [A][n].
        images: image of each question [n].
        groups: G.
    """

    names: Sequence[str]
    amounts: Sequence[Floats]
    units_of: Sequence[NDArray[Any]]
    unit_images: NDArray[np.int64]
    scores: Sequence[Coded]
    images: NDArray[np.int64]
    groups: int

    def __post_init__(self) -> None:
        for name, images in (("_units", self.unit_images), ("_rows", self.images)):
            order = np.argsort(images, kind="stable")
            bounds = np.searchsorted(images[order], np.arange(self.groups + 1))
            small = narrow(order, len(order)), narrow(bounds, len(order))
            object.__setattr__(self, name, small)

    @property
    def shape(self) -> tuple[int, int, int]:
        """G, K, A."""
        return self.groups, len(self.names) + 2, len(self.scores)

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, part: slice) -> Floats:
        start, stop, _ = part.indices(self.groups)
        sums = np.zeros((stop - start, *self.shape[1:]))
        units, unit_image = self._inside("_units", self.unit_images, start, stop)
        rows, row_image = self._inside("_rows", self.images, start, stop)
        for arm, (numbers, scores) in enumerate(zip(self.units_of, self.scores, strict=True)):
            own = numbers[units]
            for place, amounts in enumerate(self.amounts):
                sums[:, place, arm] = np.bincount(unit_image, amounts[own], stop - start)
            sums[:, -2, arm] = np.bincount(row_image, scores.at(rows), stop - start)
        sums[:, -1, :] = np.bincount(row_image, minlength=stop - start)[:, None]
        return sums

    def _inside(
        self, name: str, images: NDArray[np.int64], start: int, stop: int
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Units or questions of some images, and their images counted from the first of these."""
        order, bounds = getattr(self, name)
        chosen = order[int(bounds[start]) : int(bounds[stop])]
        return chosen, images[chosen] - start

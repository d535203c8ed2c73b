"""Intervals and tests for proportions and paired answers."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from zoo_exp.errors import InvalidValueError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, in the unit of what it is about."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside, that is: whether a difference from it is significant."""
        return value < self.low or value > self.high


def wilson(proportion: float, n: int, design_effect: float = 1.0, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion; it stays inside [0, 1] and is not empty at 0 or 1.

    With several questions per image, `design_effect` (variance with clusters over variance without) divides
    n, the usual correction for cluster samples.

    Raises:
        InvalidValueError: a proportion outside [0, 1], or no samples.

    >>> interval = wilson(0.5, 100)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.404, 0.596)
    """
    if not 0 <= proportion <= 1 or n < 1 or design_effect <= 0:
        raise InvalidValueError(
            f"wilson({proportion}, {n}, {design_effect}): allowed are a proportion from 0 to 1, "
            "at least 1 sample, and a design effect above 0"
        )
    effective = n / design_effect
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre = (proportion + z * z / (2 * effective)) / (1 + z * z / effective)
    spread = proportion * (1 - proportion) / effective + z * z / (4 * effective * effective)
    half = z * math.sqrt(spread) / (1 + z * z / effective)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def design_effect(scores: ArrayLike, clusters: ArrayLike) -> float:
    """How much clustering widens the variance of a mean; at least 1, so that an interval is never too narrow.

    Args:
        scores: one number per question [n].
        clusters: number of the image of each question, 0 to G - 1 [n].
    """
    values, groups = np.asarray(scores, float), np.asarray(clusters, np.int64)
    residuals = values - values.mean()
    totals = np.bincount(groups, weights=residuals)
    simple = float(residuals @ residuals)
    return 1.0 if simple == 0 else max(1.0, float(totals @ totals) / simple)


@dataclass(frozen=True)
class SignTest:
    """Exact McNemar test: `first` and `second` count the questions that only one of two arms got right."""

    first: int
    second: int
    p_value: float


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> SignTest:
    """Exact (binomial) McNemar test of two arms on the same questions, which it takes as independent.

    Args:
        first_right: whether the first arm is right, per question [n].
        second_right: the same for the second arm [n].
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape:
        raise InvalidValueError(f"paired answers are needed: {first.shape} against {second.shape} questions")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return SignTest(only_first, only_second, p_value)


def minimum_detectable_difference(
    standard_error: float, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """The smallest true difference found with probability `power`, in the unit of the standard error."""
    return float(stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * standard_error


def seed_spread(values: ArrayLike) -> float:
    """Standard deviation between the seeds of one arm (n - 1 below the line); nan for a single seed."""
    array: NDArray[np.float64] = np.asarray(values, float)
    return float(array.std(ddof=1)) if array.size > 1 else math.nan

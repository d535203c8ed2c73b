"""Confidence intervals for proportions, and exact tests for paired responses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from zoo_exp.errors import InvalidValueError

Floats = NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, in the unit of the estimate."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; False for nan bounds."""
        return value < self.low or value > self.high

    def scaled(self, factor: float) -> "Interval":
        """Both bounds times `factor`."""
        return Interval(factor * self.low, factor * self.high)


UNKNOWN = Interval(math.nan, math.nan)


def wilson(proportion: float, n: int, design_effect: float = 1.0, confidence: float = CONFIDENCE) -> Interval:
    """Wilson score interval of a proportion; it lies within [0, 1] and has a positive width also at 0 and 1.

    With several questions per image, n is divided by `design_effect` (ratio of the variances with and without
    clustering), the standard correction for cluster samples (Kish, Survey Sampling, 1965, section 8.2).

    Raises:
        InvalidValueError: the proportion is outside [0, 1], or there are no samples.

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
    """Factor by which clustering increases the variance of a mean; at least 1, so that intervals are never too narrow.

    Args:
        scores: score of each unit [U].
        clusters: image number of each unit, 0 to G - 1 [U].
    """
    values, groups = np.asarray(scores, float), np.asarray(clusters, np.int64)
    residuals = values - values.mean()
    totals = np.bincount(groups, weights=residuals)
    simple = float(residuals @ residuals)
    return 1.0 if simple == 0 else max(1.0, float(totals @ totals) / simple)


@dataclass(frozen=True)
class SignTest:
    """Exact sign test: number of units on which the first and the second arm scored higher, and the p value.

    For scores of 0 and 1 this is the exact McNemar test.
    """

    first: int
    second: int
    p_value: float


def sign_test(first: ArrayLike, second: ArrayLike) -> SignTest:
    """Exact (binomial) two-sided sign test of two arms on the same units, which are assumed to be independent.

    Args:
        first: score of the first arm per unit [U].
        second: the same for the second arm [U].

    Raises:
        InvalidValueError: the two have different lengths.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.shape != other.shape:
        raise InvalidValueError(f"paired scores are needed: {one.shape} against {other.shape} units")
    higher, lower = int((one > other).sum()), int((one < other).sum())
    discordant = higher + lower
    p_value = float(stats.binomtest(higher, discordant).pvalue) if discordant else 1.0
    return SignTest(higher, lower, p_value)


def twice_median(p_values: Sequence[float]) -> float:
    """Combine dependent p values: twice their median; a single value is returned unchanged.

    Valid under any dependence (Rueger 1978; DiCiccio, DiCiccio and Romano 2020).

    >>> twice_median([0.03]), twice_median([0.01, 0.02, 0.9])
    (0.03, 0.04)
    """
    return p_values[0] if len(p_values) == 1 else min(1.0, 2 * float(np.median(p_values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for multiple testing by Holm's step-down procedure (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def minimum_detectable_difference(
    standard_error: float, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """Smallest true difference that is detected with probability `power`, in the unit of the standard error."""
    return float(stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * standard_error


def seed_spread(values: ArrayLike) -> float:
    """Standard deviation between the seeds of one arm (divided by n - 1); nan for a single seed."""
    array = np.asarray(values, float)
    return float(array.std(ddof=1)) if array.size > 1 else math.nan

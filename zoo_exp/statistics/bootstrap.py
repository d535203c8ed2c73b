"""Paired cluster bootstrap: one draw of images gives every arm its resampled metric.

Questions about one image are not independent, so images are drawn, not questions. All arms get the same
draw, which is what makes differences between arms sharp. Draws depend on the seed and on the names of the
images only: the same records give the same intervals, in whatever order they were recorded, and tasks that
ask about the same images get the same draws of them, so that what tasks have in common is not taken for
independent evidence.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo_exp.statistics.intervals import CONFIDENCE, Interval

Floats = NDArray[np.float64]
DRAWS = 2000
MAX_JACKKNIFE_GROUPS = 256
MOST_UNDEFINED = 0.01
"""Share of draws that may have no value."""
WEIGHTS_PER_CHUNK = 4_000_000  # 32 MB of float64


class Statistic(Protocol):
    """A task's metric for A arms as a function of how often each of G images was drawn."""

    @property
    def value(self) -> Floats:
        """The metric on the images as they are [A]."""

    @property
    def groups(self) -> int:
        """G, the number of units that are drawn."""

    def resampled(self, weights: Floats) -> Floats:
        """The metric under each draw: weights [B, G] -> [B, A]."""


@dataclass(frozen=True)
class MeanStatistic:
    """A mean of per-question scores: exact under every draw.

    Attributes:
        totals: sum of scores per image and arm [G, A].
        sizes: questions per image [G].
        scale: what the mean is multiplied by (1, or 100 for metrics in percent).
    """

    totals: Floats
    sizes: Floats
    scale: float = 1.0

    @property
    def value(self) -> Floats:
        """The mean [A]."""
        return np.asarray(self.scale * self.totals.sum(0) / self.sizes.sum())

    @property
    def groups(self) -> int:
        """G, the number of images."""
        return len(self.sizes)

    def resampled(self, weights: Floats) -> Floats:
        """Ratio of drawn totals to drawn questions: [B, G] -> [B, A]."""
        return self.scale * (weights @ self.totals) / (weights @ self.sizes)[:, None]


@dataclass(frozen=True)
class TallyStatistic:
    """A metric that is a function of sums (F1 of hits and claims): exact under every draw.

    Attributes:
        value: the metric on the images as they are [A].
        sums: what each image adds to each of K sums [G, K, A].
        metric: function of the K sums under each draw, [B, K] -> [B].
    """

    value: Floats
    sums: Floats
    metric: Callable[[Floats], Floats]

    @property
    def groups(self) -> int:
        """G, the number of images."""
        return len(self.sums)

    def resampled(self, weights: Floats) -> Floats:
        """The metric of the drawn sums: [B, G] -> [B, A]."""
        arms = range(self.sums.shape[2])
        return np.stack([self.metric(weights @ self.sums[:, :, arm]) for arm in arms], axis=1)


@dataclass(frozen=True)
class LinearisedStatistic:
    """Any other smooth metric, by the influence of each image on it.

    Influences come from leaving out one image (the jackknife), so the metric stays a black box and a draw is
    one product. Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 11 and 20.

    Attributes:
        value: the metric on the images as they are [A].
        influence: what drawing an image once more adds to the metric [G, A]; columns sum to zero.
    """

    value: Floats
    influence: Floats

    @property
    def groups(self) -> int:
        """G, the number of units that were left out in turn."""
        return len(self.influence)

    def resampled(self, weights: Floats) -> Floats:
        """First-order value under each draw: [B, G] -> [B, A]; a metric is never below zero."""
        return np.maximum(self.value + weights @ self.influence, 0.0)


def mean_statistic(scores: Floats, clusters: NDArray[np.int64], scale: float = 1.0) -> MeanStatistic:
    """Sum scores [n, A] by image; `clusters` numbers the image of each question from 0 [n]."""
    totals = np.zeros((int(clusters.max()) + 1, scores.shape[1]))
    np.add.at(totals, clusters, scores)
    return MeanStatistic(totals, np.bincount(clusters).astype(float), scale)


def linearised_statistic(
    metric: Callable[[int, NDArray[np.int64]], float],
    n_arms: int,
    clusters: NDArray[np.int64],
    seed: int = 0,
    max_groups: int = MAX_JACKKNIFE_GROUPS,
) -> LinearisedStatistic:
    """Leave out each image in turn.

    Args:
        metric: function (arm, numbers of the questions to use) -> value.
        n_arms: A.
        clusters: number of the image of each question, from 0 [n].
        seed: how images are dealt into groups where there are more than `max_groups` of them.
        max_groups: bound on the evaluations of `metric` per arm.
    """
    everything = np.arange(len(clusters))
    images = int(clusters.max()) + 1
    if images > max_groups:
        dealt = np.random.default_rng(seed).permutation(images) % max_groups
        clusters = dealt[clusters]
    groups = int(clusters.max()) + 1
    value = np.array([metric(arm, everything) for arm in range(n_arms)], float)
    if groups == 1:
        return LinearisedStatistic(value, np.zeros((1, n_arms)))
    without = np.empty((groups, n_arms))
    for group in range(groups):
        rest = everything[clusters != group]
        without[group] = [metric(arm, rest) for arm in range(n_arms)]
    influence = (groups - 1) / groups * (without.mean(0) - without)
    return LinearisedStatistic(value, influence)


def draw(statistic: Statistic, images: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Floats:
    """The metric of every arm under resampled images, in bounded memory [draws, A].

    Args:
        statistic: what is resampled.
        images: sorted names of the task's images; with `seed` they decide the draws.
        draws: B.
        seed: seed of the draws.
    """
    key = (seed, zlib.crc32("\n".join(images).encode()))
    if draws * statistic.groups <= WEIGHTS_PER_CHUNK:
        return statistic.resampled(_few_weights(key, statistic.groups, draws))
    return np.concatenate([statistic.resampled(part) for part in _weights(key, statistic.groups, draws)])


def _weights(key: tuple[int, int], groups: int, draws: int) -> Iterator[Floats]:
    """How often each draw holds each image, some draws at a time [b, G]."""
    generator = np.random.default_rng(key)
    # The chunk decides only how many rows are made at once: the stream of draws is the same for any size.
    chunk = max(1, WEIGHTS_PER_CHUNK // groups)
    share = np.full(groups, 1 / groups)
    for start in range(0, draws, chunk):
        yield generator.multinomial(groups, share, size=min(chunk, draws - start)).astype(float)


@lru_cache(maxsize=4)
def _few_weights(key: tuple[int, int], groups: int, draws: int) -> Floats:
    """The same at once; several metrics of a task are drawn one after the other, from the same images."""
    (weights,) = _weights(key, groups, draws)
    weights.setflags(write=False)
    return weights


def retained(resampled: Sequence[Floats], reference: int) -> Floats:
    """Retained average under each draw, in percent [B, A]: mean over tasks of metric / metric of `reference`.

    A task whose reference is 0 gives nan: nothing can be retained of nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [
            np.where(task[:, [reference]] > 0, 100 * task / task[:, [reference]], np.nan)
            for task in resampled
        ]
    return np.asarray(np.mean(shares, axis=0))


def percentile_interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The middle `confidence` of bootstrap values [B].

    A draw in which the reference gets nothing right has no value; up to 1 % of such draws are left out (a task with
    few images has one now and then), with more of them the interval is nan.
    """
    known = values[~np.isnan(values)]
    if known.size < (1 - MOST_UNDEFINED) * values.size:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))

"""Paired cluster bootstrap over images.

Questions about one image are not independent, so images are resampled, not questions. All arms of all tasks use the
same weights of an image. Differences between arms are therefore paired, and an average over tasks that share images
does not treat shared images as independent evidence.

Method: Poisson bootstrap. In every draw, each image has a Poisson weight with mean 1 instead of a multinomial count.
The weight depends only on (seed, draw, image key), not on the other images of the task, their order, or other tasks.
Metrics are ratios of sums, for which both kinds of weights agree to first order; Poisson weights give intervals that
are wider by a factor of about 1 + 1/G. Weights are computed by inversion from a counter-based generator keyed by the
seed and a hash of the image key.

Sources: Hanley and MacGibbon, "Creating non-parametric bootstrap samples using Poisson frequencies", 2006; Chamandy,
Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams", Google, 2012 (keyed weights);
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011 (the generator); Hesterberg, "What teachers should
know about the bootstrap", 2015, section 4.2.3 (expanded percentile interval).
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zoo_exp.statistics.intervals import CONFIDENCE, UNKNOWN, Floats, Interval

DRAWS = 2000
MOST_UNDEFINED = 0.01
"""Maximum share of draws without a value."""
WEIGHTS_PER_CHUNK = 4_000_000  # 32 MB of float64
_POISSON = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(16)])
"""Cumulative probabilities of the weights 0 to 15; larger weights have a probability below 1e-14."""


class Sums(Protocol):
    """Contributions of G images to K sums under A arms, read for some images at a time: an array, or similar."""

    @property
    def shape(self) -> tuple[int, ...]:
        """G, K, A."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Floats: ...


@dataclass(frozen=True)
class Statistic:
    """Metrics of A arms as functions of K sums over G images; exact under every draw.

    Attributes:
        names: names of the sums [K].
        sums: contribution of each image to each sum under each arm [G, K, A].
        images: image keys [G]; together with the seed they determine the draws.
        metrics: function from sums by name (arrays of equal shape) to metrics by name of the same shape.
    """

    names: tuple[str, ...]
    sums: Sums
    images: Sequence[str]
    metrics: Callable[[Mapping[str, Floats]], Mapping[str, Floats]]

    def value(self, metric: str) -> Floats:
        """The metric without resampling [A]."""
        values: Floats = self.of(self.sums[:].sum(0)[None], metric)[0]
        return values

    def draw(self, draws: int = DRAWS, seed: int = 0) -> Floats:
        """Sums of resampled images, computed in bounded memory [draws, K, A]."""
        groups, *shape = self.sums.shape
        total = np.zeros((draws, math.prod(shape)))
        chunk = max(1, WEIGHTS_PER_CHUNK // max(1, draws))
        for start in range(0, groups, chunk):
            part = weights(self.images[start : start + chunk], draws, seed)
            total += part @ self.sums[start : start + chunk].reshape(part.shape[1], -1)
        return total.reshape(draws, *shape)

    def of(self, sums: Floats, metric: str) -> Floats:
        """Compute a metric from sums [B, K, A] -> [B, A]."""
        return np.asarray(
            self.metrics({name: sums[:, k] for k, name in enumerate(self.names)})[metric], np.float64
        )


def weights(images: Sequence[str], draws: int, seed: int) -> Floats:
    """Weight of each image in each draw [draws, G]."""
    return np.stack([_weights(image, draws, seed) for image in images], axis=1).astype(np.float64)


@lru_cache(maxsize=8192)  # 16 MB with 2000 draws; tasks share images, and every table uses the same draws
def _weights(image: str, draws: int, seed: int) -> NDArray[np.uint8]:
    """Weight of one image in each draw [draws]; independent of the number of draws."""
    digest = hashlib.blake2b(f"{seed}\0{image}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return np.searchsorted(_POISSON, generator.random(draws), side="right").astype(np.uint8)


def retained(values: Floats, reference: int) -> Floats:
    """Metric of each arm in percent of the reference arm's [..., A]; nan if the reference's metric is 0.

    Args:
        values: metric of a task [..., A].
        reference: number of the arm that keeps every token.
    """
    full = values[..., [reference]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(full > 0, 100 * values / full, np.nan))


def percentile_interval(values: Floats, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Expanded percentile interval of bootstrap values [B].

    For few images, plain percentile intervals are too narrow, like a normal interval with the variance divided by G
    and without Student's quantiles. The tails used here are those of z = t * sqrt(G / (G - 1)), where t is the
    quantile of Student's distribution with G - 1 degrees of freedom.

    Draws in which the reference arm's metric is 0 have no value. Up to 1 % of such draws are ignored (they occur in
    tasks with few images); with more, the interval is nan.

    Args:
        values: bootstrap values, nan for draws without a value.
        images: G, the number of resampled images (for an average over tasks: the minimum over the tasks).
        confidence: coverage probability of the interval.
    """
    known = values[~np.isnan(values)]
    if known.size < (1 - MOST_UNDEFINED) * values.size:
        return UNKNOWN
    tail = expanded_tail(images, confidence)
    # Infinite values (blind arm scores 0) cannot be interpolated.
    low, high = np.quantile(known, [tail, 1 - tail], method="nearest" if np.isinf(known).any() else "linear")
    return Interval(float(low), float(high))


@lru_cache(maxsize=1024)
def expanded_tail(images: int, confidence: float = CONFIDENCE) -> float:
    """Tail probability on each side of the expanded percentile interval.

    >>> round(expanded_tail(20), 4), round(expanded_tail(10**6), 4)
    (0.0159, 0.025)
    """
    if images < 2:
        return 0.0
    t = float(stats.t.ppf((1 + confidence) / 2, images - 1))
    return float(stats.norm.sf(t * math.sqrt(images / (images - 1))))

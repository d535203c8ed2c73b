"""Paired cluster bootstrap: one draw of images gives every arm its resampled metric.

Questions about one image are not independent, so images are drawn, not questions. All arms of all tasks get the same
draws of an image, so that differences between arms are sharp, and averages over tasks that ask about the same images
do not take what these have in common for independent evidence.

Method: the Poisson bootstrap. In every draw each image has a weight of its own, Poisson distributed with mean 1,
instead of the counts of a multinomial sample. The weight depends on (seed, draw, name of the image) only: not on the
other images of the task, their order, or other tasks. Metrics are ratios of sums, for which both kinds of weights
agree to first order; the Poisson weights are wider by a factor of about 1 + 1/G. Weights come from a counter-based
generator keyed by the seed and a hash of the name, by inversion.

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

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zoo_exp.statistics.intervals import CONFIDENCE, UNKNOWN, Floats, Interval

DRAWS = 2000
MOST_UNDEFINED = 0.01
"""Share of draws that may have no value."""
WEIGHTS_PER_CHUNK = 4_000_000  # 32 MB of float64
_POISSON = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(16)])
"""Cumulative probabilities of the weights 0 to 15; beyond them there is less than 1e-14."""


@dataclass(frozen=True)
class Statistic:
    """Metrics of A arms as functions of K sums over G images: exact under every draw.

    Attributes:
        names: names of the sums [K].
        sums: what each image adds to each sum under each arm [G, K, A].
        images: names of the images [G]; with the seed they decide the draws.
        metrics: mapping from names to sums (arrays of one shape) -> metrics of that shape.
    """

    names: tuple[str, ...]
    sums: Floats
    images: Sequence[str]
    metrics: Callable[[Mapping[str, Floats]], Mapping[str, Floats]]

    def value(self, metric: str) -> Floats:
        """The metric of the images as they are [A]."""
        values: Floats = self.of(self.sums.sum(0)[None], metric)[0]
        return values

    def draw(self, draws: int = DRAWS, seed: int = 0) -> Floats:
        """The sums under resampled images, in bounded memory [draws, K, A]."""
        groups, *shape = self.sums.shape
        flat, total = self.sums.reshape(groups, -1), np.zeros((draws, math.prod(shape)))
        chunk = max(1, WEIGHTS_PER_CHUNK // max(1, draws))
        for start in range(0, groups, chunk):
            part = weights(self.images[start : start + chunk], draws, seed)
            total += part @ flat[start : start + chunk]
        return total.reshape(draws, *shape)

    def of(self, sums: Floats, metric: str) -> Floats:
        """A metric of sums [B, K, A] -> [B, A]."""
        return np.asarray(
            self.metrics({name: sums[:, k] for k, name in enumerate(self.names)})[metric], np.float64
        )


def weights(images: Sequence[str], draws: int, seed: int) -> Floats:
    """How often each draw holds each image [draws, G]."""
    return np.stack([_weights(image, draws, seed) for image in images], axis=1).astype(np.float64)


@lru_cache(maxsize=8192)  # 16 MB with 2000 draws: tasks share images, and every table draws them anew
def _weights(image: str, draws: int, seed: int) -> NDArray[np.uint8]:
    """How often each draw holds one image [draws]; the first draws do not depend on their number."""
    digest = hashlib.blake2b(f"{seed}\0{image}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return np.searchsorted(_POISSON, generator.random(draws), side="right").astype(np.uint8)


def retained(values: Floats, reference: int) -> Floats:
    """What each arm retains of `reference`, in percent [..., A]; nan where the reference gets nothing.

    Args:
        values: a task's metric [..., A].
        reference: number of the arm that keeps every token.
    """
    full = values[..., [reference]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(full > 0, 100 * values / full, np.nan))


def percentile_interval(values: Floats, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Expanded percentile interval of bootstrap values [B].

    Percentiles alone are too narrow for few images, like a normal interval with the variance divided by G and without
    Student's quantiles. So the tails are those of z = t * sqrt(G / (G - 1)), with t the quantile of Student's
    distribution with G - 1 degrees of freedom.

    A draw in which the reference gets nothing has no value; up to 1 % of such draws are left out (a task with few
    images has one now and then), with more of them the interval is nan.

    Args:
        values: bootstrap values, nan where a draw has none.
        images: G, the number of images that were resampled (of an average over tasks: the fewest of a task).
        confidence: how often the interval is to hold the true value.
    """
    known = values[~np.isnan(values)]
    if known.size < (1 - MOST_UNDEFINED) * values.size:
        return UNKNOWN
    tail = expanded_tail(images, confidence)
    # An infinite draw (nothing right without the image) allows no interpolation.
    low, high = np.quantile(known, [tail, 1 - tail], method="nearest" if np.isinf(known).any() else "linear")
    return Interval(float(low), float(high))


@lru_cache(maxsize=1024)
def expanded_tail(images: int, confidence: float = CONFIDENCE) -> float:
    """Share of draws beyond each end of the expanded percentile interval.

    >>> round(expanded_tail(20), 4), round(expanded_tail(10**6), 4)
    (0.0159, 0.025)
    """
    if images < 2:
        return 0.0
    t = float(stats.t.ppf((1 + confidence) / 2, images - 1))
    return float(stats.norm.sf(t * math.sqrt(images / (images - 1))))

"""Align the records of one task: the same questions under every arm, so that arms are compared in pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.bootstrap import (
    Floats,
    LinearisedStatistic,
    MeanStatistic,
    TallyStatistic,
    linearised_statistic,
    mean_statistic,
)

Aggregate = Callable[[str, list[dict[str, Any]]], Mapping[str, float]]


class Scoring(Protocol):
    """The part of a task that says of which sums its metrics are made (a `zoo_exp.tasks` task is one)."""

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """What each unit of the rows adds to named sums; each tally has `counts`, name -> amount."""

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics from those sums, which may be arrays."""


@dataclass(frozen=True)
class TaskSamples:
    """One task's questions, each answered under all A arms of `arm_ids`.

    Attributes:
        task: name of the task.
        arm_ids: the arms, one per seed of a random selector [A].
        sample_ids: questions that every arm answered, sorted [n].
        image_ids: its images, sorted [G].
        clusters: number of the image of each question, 0 to G - 1 [n].
        scores: per-question scores in [0, 1] [n, A].
        kept: visual tokens that entered the language model; nan where the question has no image [n, A].
        layers: of layer selectors, visual tokens at the input of a decoder layer, mean over the layers; nan for
            input selectors and where the question has no image [n, A].
        flops: TFLOP per question, nan where not recorded [n, A].
        n_visual: visual tokens before pruning; nan where the question has no image [n].
        rows: what the task's aggregate reads, per arm and question.
        dropped: questions left out because some arm has not answered them yet.
    """

    task: str
    arm_ids: list[str]
    sample_ids: list[str]
    image_ids: list[str]
    clusters: NDArray[np.int64]
    scores: Floats
    kept: Floats
    layers: Floats
    flops: Floats
    n_visual: Floats
    rows: list[list[dict[str, Any]]]
    dropped: int

    @property
    def images(self) -> int:
        """G, the number of different images."""
        return len(self.image_ids)

    @property
    def measured(self) -> Floats:
        """What a budget limits: the mean over layers of layer selectors, else the tokens that entered [n, A]."""
        return np.where(np.isnan(self.layers), self.kept, self.layers)


def align(records: pd.DataFrame, task: str, arm_ids: Sequence[str]) -> TaskSamples | None:
    """The questions of `task` that every one of `arm_ids` that has begun has answered; None without any."""
    mine = records[records["task"] == task]
    begun = set(mine["arm_id"])
    present = [arm for arm in arm_ids if arm in begun]
    mine = mine[mine["arm_id"].isin(present)]
    counts = mine["sample_id"].value_counts()
    # Some metrics need all questions of an image (MME's pairs): an image with a gap is left out as a whole.
    gaps = set(mine.loc[mine["sample_id"].isin(counts.index[counts < len(present)]), "image_id"])
    common = sorted(mine.loc[~mine["image_id"].isin(gaps), "sample_id"].unique())
    if not present or not common:
        return None
    # One sort puts every arm's answers in the same order: reshaped, they are a table of arms and questions.
    place = {arm: number for number, arm in enumerate(present)}
    mine = mine[mine["sample_id"].isin(set(common))]
    mine = mine.iloc[np.lexsort((mine["sample_id"].to_numpy(str), mine["arm_id"].map(place).to_numpy()))]
    shape = len(present), len(common)
    image_ids, clusters = np.unique(mine["image_id"].to_numpy(str)[: shape[1]], return_inverse=True)
    n_visual = mine["n_visual"].to_numpy(float)[: shape[1]]
    has_image = n_visual > 0
    parts = mine["parts"].to_numpy(object).reshape(shape)

    def table(column: str) -> Floats:
        return np.asarray(pd.to_numeric(mine[column]).to_numpy(float).reshape(shape).T)

    return TaskSamples(
        task=task,
        arm_ids=present,
        sample_ids=common,
        image_ids=image_ids.tolist(),
        clusters=clusters.astype(np.int64),
        scores=table("score"),
        kept=np.where(has_image[:, None], table("kept_tokens"), np.nan),
        layers=np.where(has_image[:, None], table("layer_tokens"), np.nan),
        flops=table("flops_tflop"),
        n_visual=np.where(has_image, n_visual, np.nan),
        rows=[
            [{"sample_id": sample, **row} for sample, row in zip(common, part, strict=True)] for part in parts
        ],
        dropped=len(counts) - len(common),
    )


def metric_statistic(
    samples: TaskSamples, aggregate: Aggregate, metric: str, scoring: Scoring | None = None, seed: int = 0
) -> MeanStatistic | TallyStatistic | LinearisedStatistic:
    """The task's main metric as something that can be resampled.

    Whether the metric is a plain mean of scores is tried out, on all questions and on the first half of the
    images. If it is not, and `scoring` says of which sums it is made, draws are exact as well; else the metric
    is linearised.

    Raises:
        InvalidValueError: the aggregate does not give `metric`.
    """

    def value(arm: int, numbers: NDArray[np.int64]) -> float:
        values = aggregate(samples.task, [samples.rows[arm][number] for number in numbers])
        if metric not in values:
            raise InvalidValueError(
                f"task {samples.task} gives no metric '{metric}': it gives {', '.join(sorted(values))}"
            )
        return float(values[metric])

    everything = np.arange(len(samples.sample_ids))
    half = everything[samples.clusters <= samples.images // 2]
    for scale in (1.0, 100.0):
        if all(
            # Some tasks round to five decimals, as the reference implementation does.
            abs(value(arm, numbers) - scale * samples.scores[numbers, arm].mean()) <= 1e-5 * scale
            for numbers in (everything, half)
            for arm in range(len(samples.arm_ids))
        ):
            return mean_statistic(samples.scores, samples.clusters, scale)
    if scoring is not None:
        whole = np.array([value(arm, everything) for arm in range(len(samples.arm_ids))])
        return _tally_statistic(samples, scoring, metric, whole)
    return linearised_statistic(value, len(samples.arm_ids), samples.clusters, seed)


def _tally_statistic(samples: TaskSamples, scoring: Scoring, metric: str, value: Floats) -> TallyStatistic:
    groups = [np.flatnonzero(samples.clusters == image) for image in range(samples.images)]
    found: list[tuple[int, str, int, float]] = []
    for arm, rows in enumerate(samples.rows):
        for image, numbers in enumerate(groups):
            for tally in scoring.tallies([rows[number] for number in numbers]):
                found += [(image, key, arm, amount) for key, amount in tally.counts.items()]
    keys = sorted({key for _, key, _, _ in found})
    sums = np.zeros((samples.images, len(keys), len(samples.arm_ids)))
    for image, key, arm, amount in found:
        sums[image, keys.index(key), arm] += amount

    def of_sums(drawn: Floats) -> Floats:
        values = scoring.metrics({key: drawn[:, number] for number, key in enumerate(keys)})
        return np.asarray(values[metric], float)

    return TallyStatistic(value, sums, of_sums)

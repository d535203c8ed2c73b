"""Align the records of one task: the same questions under every arm, so that arms are compared in pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.core.errors import InvalidValueError
from zoo_exp.report.bootstrap import (
    Floats,
    LinearisedStatistic,
    MeanStatistic,
    linearised_statistic,
    mean_statistic,
)

Aggregate = Callable[[str, list[dict[str, Any]]], Mapping[str, float]]


@dataclass(frozen=True)
class TaskSamples:
    """One task's questions, each answered under all A arms of `arm_ids`.

    Attributes:
        task: name of the task.
        arm_ids: the arms, one per seed of a random selector [A].
        sample_ids: questions that every arm answered, sorted [n].
        clusters: number of the image of each question, 0 to G - 1 [n].
        scores: per-question scores in [0, 1] [n, A].
        kept: visual tokens that entered the language model; nan where the question has no image [n, A].
        flops: TFLOP per question, nan where not recorded [n, A].
        n_visual: visual tokens before pruning; nan where the question has no image [n].
        rows: what the task's aggregate reads, per arm and question.
        dropped: questions left out because some arm has not answered them yet.
    """

    task: str
    arm_ids: list[str]
    sample_ids: list[str]
    clusters: NDArray[np.int64]
    scores: Floats
    kept: Floats
    flops: Floats
    n_visual: Floats
    rows: list[list[dict[str, Any]]]
    dropped: int

    @property
    def images(self) -> int:
        """G, the number of different images."""
        return int(self.clusters.max()) + 1


def align(records: pd.DataFrame, task: str, arm_ids: Sequence[str]) -> TaskSamples | None:
    """The questions of `task` that all those of `arm_ids` answered that have begun; None if there are none."""
    mine = records[records["task"] == task]
    begun = set(mine["arm_id"])
    present = [arm for arm in arm_ids if arm in begun]
    mine = mine[mine["arm_id"].isin(present)]
    counts = mine["sample_id"].value_counts()
    common = sorted(counts.index[counts == len(present)])
    if not present or not common:
        return None
    by_arm = {arm: part.set_index("sample_id").loc[common] for arm, part in mine.groupby("arm_id", sort=False)}
    parts = [by_arm[arm] for arm in present]
    _, clusters = np.unique(parts[0]["image_id"].to_numpy(str), return_inverse=True)
    n_visual = parts[0]["n_visual"].to_numpy(float)
    has_image = n_visual > 0

    def table(column: str) -> Floats:
        return np.stack([pd.to_numeric(part[column]).to_numpy(float) for part in parts], axis=1)

    return TaskSamples(
        task=task,
        arm_ids=present,
        sample_ids=common,
        clusters=clusters.astype(np.int64),
        scores=table("score"),
        kept=np.where(has_image[:, None], table("kept_tokens"), np.nan),
        flops=table("flops_tflop"),
        n_visual=np.where(has_image, n_visual, np.nan),
        rows=[
            [{"sample_id": sample, **row} for sample, row in zip(common, part["parts"], strict=True)]
            for part in parts
        ],
        dropped=len(counts) - len(common),
    )


def metric_statistic(
    samples: TaskSamples, aggregate: Aggregate, metric: str, seed: int = 0
) -> MeanStatistic | LinearisedStatistic:
    """The task's main metric as something that can be resampled.

    Whether the metric is a plain mean of scores is tried out, on all questions and on the first half of the images:
    then every draw is exact. Any other metric is linearised.

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
    return linearised_statistic(value, len(samples.arm_ids), samples.clusters, seed)

"""One task of a table: its metric per row, resampled, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo_exp.statistics.alignment import Aggregate, Scoring, TaskSamples, metric_statistic
from zoo_exp.statistics.bootstrap import (
    Floats,
    MeanStatistic,
    draw,
    mean_statistic,
    percentile_interval,
    retained,
)
from zoo_exp.statistics.intervals import Interval, design_effect, wilson
from zoo_exp.statistics.rows import ArmRow


@dataclass(frozen=True)
class TaskEstimate:
    """One task over the R rows of a table; nan where a row has no records.

    Attributes:
        samples: its aligned questions.
        metric: name of the main metric.
        value: the metric, averaged over the seeds of a row [R].
        resampled: the same under each bootstrap draw [B, R].
        score: mean score, 0 to 1 [R].
        score_resampled: the same under each draw [B, R].
        intervals: 95 % interval of `value`, one per row.
        methods: how each interval was computed.
        seed_values: the metric of every seed, one array per row.
    """

    samples: TaskSamples
    metric: str
    value: Floats
    resampled: Floats
    score: Floats
    score_resampled: Floats
    intervals: list[Interval]
    methods: list[str]
    seed_values: list[Floats]


def estimate(
    samples: TaskSamples,
    rows: Sequence[ArmRow],
    aggregate: Aggregate,
    metric: str,
    scoring: Scoring | None,
    draws: int,
    seed: int,
) -> TaskEstimate:
    """Compute one task.

    The seeds of a row are averaged inside every draw. Such a selector draws anew for each image, so
    resampling images also covers its own randomness; the spread between seeds is reported apart.
    """
    statistic = metric_statistic(samples, aggregate, metric, scoring, seed)
    members = [
        [samples.arm_ids.index(member) for member in row.members if member in samples.arm_ids] for row in rows
    ]
    mixing = np.zeros((len(samples.arm_ids), len(rows)))  # [A, R]
    for column, (row, present) in enumerate(zip(rows, members, strict=True)):
        # A row that lacks seeds has no value yet; nan in one place makes the whole column nan.
        mixing[present or [0], column] = 1 / len(present) if len(present) == len(row.members) else math.nan
    resampled = draw(statistic, samples.image_ids, draws, seed) @ mixing
    if isinstance(statistic, MeanStatistic):
        score_resampled = resampled / statistic.scale
    else:
        scores = mean_statistic(samples.scores, samples.clusters)
        score_resampled = draw(scores, samples.image_ids, draws, seed) @ mixing
    intervals = [percentile_interval(resampled[:, column]) for column in range(len(rows))]
    methods = ["bootstrap by image"] * len(rows)
    if isinstance(statistic, MeanStatistic) and np.isin(samples.scores, (0.0, 1.0)).all():
        for column, present in enumerate(members):
            if len(present) == len(rows[column].members) == 1:
                intervals[column] = _proportion(samples, present[0], statistic.scale)
                methods[column] = "Wilson by image"
    return TaskEstimate(
        samples=samples,
        metric=metric,
        value=statistic.value @ mixing,
        resampled=resampled,
        score=samples.scores.mean(0) @ mixing,
        score_resampled=score_resampled,
        intervals=intervals,
        methods=methods,
        seed_values=[statistic.value[present] for present in members],
    )


def _proportion(samples: TaskSamples, arm: int, scale: float) -> Interval:
    answers = samples.scores[:, arm]
    plain = wilson(float(answers.mean()), len(answers), design_effect(answers, samples.clusters))
    return Interval(scale * plain.low, scale * plain.high)


def retained_values(tasks: Sequence[TaskEstimate], reference: int | None) -> Floats:
    """Retained average as recorded, in percent [R]; nan without a reference row."""
    if reference is None:
        return np.full(len(tasks[0].value), math.nan)
    values: Floats = retained([task.value[None] for task in tasks], reference)[0]
    return values

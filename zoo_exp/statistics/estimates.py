"""Estimates of one task: the metric of each table row, with bootstrap draws and intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import retained
from zoo_exp.statistics.intervals import Floats, Interval
from zoo_exp.statistics.tallies import MEAN_SCORE, Tallied, interval_of, tally
from zoo_exp.tasks.base import Task


@dataclass(frozen=True)
class TaskEstimate:
    """Estimates of one task for the R rows of a table; nan if a row has no records.

    Attributes:
        samples: its aligned questions.
        tallied: its sums, metrics and units, by arm.
        value: main metric, averaged over the seeds of a row [R].
        resampled: main metric under each bootstrap draw [B, R].
        score: mean score of the questions, 0 to 1 [R].
        score_resampled: mean score under each draw [B, R].
        retained: main metric in percent of the reference row's; nan without a reference [R].
        retained_resampled: retained percentage under each draw [B, R].
        intervals: 95 % interval of `value`, one per row.
        methods: method of each interval.
        seed_values: main metric of every seed, one array per row.
    """

    samples: TaskSamples
    tallied: Tallied
    value: Floats
    resampled: Floats
    score: Floats
    score_resampled: Floats
    retained: Floats
    retained_resampled: Floats
    intervals: list[Interval]
    methods: list[str]
    seed_values: list[Floats]

    @property
    def task(self) -> Task:
        """The benchmark."""
        return self.samples.task


def estimate(
    samples: TaskSamples, rows: Sequence[ArmRow], reference: int | None, draws: int, seed: int
) -> TaskEstimate:
    """Compute the estimates of one task.

    The seeds of a row are averaged within every draw. A stochastic selector draws independently for each image, so
    resampling images also covers its randomness; the spread between seeds is reported separately.

    Args:
        samples: aligned questions.
        rows: the R rows of the table.
        reference: number of the row that keeps every token, or None.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        InvalidValueError: the task's metric cannot be computed from these records.
    """
    tallied = tally(samples.task, samples.rows, samples.clusters, samples.keys)
    metric, statistic = samples.task.main_metric, tallied.statistic
    mixing = seed_mixing(samples, rows)
    sums = statistic.draw(draws, seed)
    resampled = statistic.of(sums, metric) @ mixing
    by_arm = tallied.metrics[metric]
    value = by_arm @ mixing
    found = []
    for column, row in enumerate(rows):
        present = samples.columns(row.members)
        single = present[0] if len(present) == len(row.members) == 1 else None
        found.append(interval_of(tallied, samples.task, resampled[:, column], single))
    nothing = np.full(len(rows), math.nan)
    return TaskEstimate(
        samples=samples,
        tallied=tallied,
        value=value,
        resampled=resampled,
        score=np.array([own.values("score").mean() for own in samples.rows]) @ mixing,
        score_resampled=statistic.of(sums, MEAN_SCORE) @ mixing,
        retained=nothing if reference is None else retained(value, reference),
        retained_resampled=nothing[None].repeat(draws, 0)
        if reference is None
        else retained(resampled, reference),
        intervals=[interval for interval, _ in found],
        methods=[method for _, method in found],
        seed_values=[by_arm[samples.columns(row.members)] for row in rows],
    )


def seed_mixing(samples: TaskSamples, rows: Sequence[ArmRow]) -> Floats:
    """Weights that average the seeds of each row [A, R]; columns of rows with missing seeds are nan."""
    mixing = np.zeros((len(samples.arm_ids), len(rows)))
    for column, row in enumerate(rows):
        present = samples.columns(row.members)
        # One nan makes the whole product nan: rows with missing seeds have no value yet.
        mixing[present or [0], column] = 1 / len(present) if len(present) == len(row.members) else math.nan
    return mixing


def mean_over_tasks(values: Sequence[Floats]) -> Floats:
    """Mean over tasks; nan if any of them is nan."""
    return np.asarray(np.mean(np.asarray(values), axis=0))


def fewest_images(tasks: Sequence[TaskEstimate]) -> int:
    """Minimum number of images over the tasks: a lower bound for an average, because tasks may share images."""
    return min(task.samples.images for task in tasks)

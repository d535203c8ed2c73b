"""Metrics of a task as functions of sums over units, and their intervals; used by `run`, `report` and `score`.

A task converts each unit (a question, an MME pair, an MMBench rotation group) to contributions to named sums, and the
sums to metrics. Resampled metrics are therefore exact: the sums are resampled, and the metrics computed from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.bootstrap import DRAWS, Statistic, percentile_interval
from zoo_exp.statistics.intervals import Floats, Interval, design_effect, wilson
from zoo_exp.tasks.base import Task, exact_sums

Rows = Sequence[Mapping[str, Any]]
SCORE, QUESTIONS = "sum of question scores", "number of questions"
"""Additional sums of every task, for the mean score."""
MEAN_SCORE = "mean score"
BOOTSTRAP, WILSON = "bootstrap by image", "Wilson by image"


@dataclass(frozen=True)
class Tallied:
    """Metrics of a task for A arms, with the sums and unit scores from which they are computed.

    Attributes:
        metrics: every metric of every arm, equal to `task.aggregate` of its rows [A].
        statistic: the metrics as functions of sums per image, for resampling.
        unit_scores: score of each unit, 0 to 1 [U, A].
        unit_images: image number of each unit, 0 to G - 1 [U].
        proportion: whether `main_metric` is the share of correct units.
    """

    metrics: dict[str, Floats]
    statistic: Statistic
    unit_scores: Floats
    unit_images: NDArray[np.int64]
    proportion: bool

    @property
    def units(self) -> int:
        """U, the number of questions, MME pairs, or MMBench rotation groups."""
        return len(self.unit_images)


def tally(task: Task, rows: Sequence[Rows], clusters: NDArray[np.int64], images: Sequence[str]) -> Tallied:
    """Compute the sums and metrics of one task.

    Args:
        task: the task.
        rows: sample id and score parts of the same n questions, by arm [A][n].
        clusters: image number of each question [n].
        images: image keys for resampling [G].

    Raises:
        InvalidValueError: the metric is undefined for these rows (half an MME pair), or the task lacks its main metric.
    """
    image_of = {task.unit_name(row): int(clusters[place]) for place, row in enumerate(rows[0])}
    tallies = [task.tallies(own) for own in rows]
    values = [task.metrics(exact_sums(own)) for own in tallies]
    if any(task.main_metric not in value for value in values):
        raise InvalidValueError(
            f"task {task.name} has no metric '{task.main_metric}': its metrics are {', '.join(sorted(values[0]))}"
        )
    unknown = {one.unit for own in tallies for one in own} - set(image_of)
    if unknown:
        raise InvalidValueError(
            f"task {task.name}: tallies returns the unit '{min(unknown)}', but unit_name returns it for no row; "
            f"units of rows are {', '.join(sorted(image_of)[:3])} ..."
        )
    names = sorted({name for own in tallies for one in own for name in one.counts})
    place = {name: number for number, name in enumerate([*names, SCORE, QUESTIONS])}
    units = {one.unit: number for number, one in enumerate(tallies[0])}
    sums = np.zeros((len(images), len(place), len(rows)))
    unit_scores = np.full((len(units), len(rows)), np.nan)
    for arm, own in enumerate(tallies):
        found = [
            (image_of[one.unit], place[name], amount) for one in own for name, amount in one.counts.items()
        ]
        for group, number, amount in found:
            sums[group, number, arm] += amount
        scores = np.array([row["score"] for row in rows[arm]], dtype=np.float64)
        sums[:, place[SCORE], arm] = np.bincount(clusters, scores, len(images))
        sums[:, place[QUESTIONS], arm] = np.bincount(clusters, minlength=len(images))
        for one in own:
            unit_scores[units[one.unit], arm] = one.score
    return Tallied(
        metrics={name: np.array([value.get(name, np.nan) for value in values]) for name in values[0]},
        statistic=Statistic(tuple(place), sums, tuple(images), _Metrics(task, tuple(names))),
        unit_scores=unit_scores,
        unit_images=np.array([image_of[unit] for unit in units], np.int64),
        proportion=task.mean_of_units and bool(np.isin(unit_scores, (0.0, 1.0)).all()),
    )


@dataclass(frozen=True)
class _Metrics:
    """Computes the task's metrics and the mean score of its questions from sums by name."""

    task: Task
    names: tuple[str, ...]

    def __call__(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """Compute metrics from arrays of sums."""
        own = self.task.metrics({name: sums[name] for name in self.names})
        with np.errstate(divide="ignore", invalid="ignore"):
            return {**own, MEAN_SCORE: sums[SCORE] / sums[QUESTIONS]}


def metric_intervals(
    task: Task, rows: Sequence[Mapping[str, Any]], draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """95 % interval of every metric of one set of responses; for the main metric, the same as in a run's table.

    Args:
        task: the task.
        rows: `sample_id`, `image_id` and score parts of each response.
        draws: bootstrap draws.
        seed: seed of the draws.

    Returns:
        Metric -> interval; empty for tasks that only a benchmark's server can score.
    """
    if task.submission_only:
        return {}
    rows = sorted(rows, key=lambda row: str(row["sample_id"]))
    names = [str(row.get("image_id") or f"sample {row['sample_id']}") for row in rows]
    images, clusters = np.unique(np.array(names), return_inverse=True)
    tallied = tally(task, [rows], clusters.astype(np.int64), [task.image_key(str(name)) for name in images])
    sums = tallied.statistic.draw(draws, seed)
    return {
        name: interval_of(
            tallied, task, tallied.statistic.of(sums, name)[:, 0], 0 if name == task.main_metric else None
        )[0]
        for name in tallied.metrics
    }


def interval_of(tallied: Tallied, task: Task, resampled: Floats, arm: int | None) -> tuple[Interval, str]:
    """Wilson interval if the main metric of a single arm is a proportion, otherwise the bootstrap interval.

    If all units have the same score, all draws are equal and the bootstrap interval has no width. The main metric of an
    arm then gets the relative width of the Wilson interval of the mean unit score.
    """
    if arm is not None:
        right = tallied.unit_scores[:, arm]
        mean, effect = float(right.mean()), design_effect(right, tallied.unit_images)
        if tallied.proportion:
            return wilson(mean, len(right), effect).scaled(task.scale.maximum), WILSON
        if mean > 0 and right.min() == right.max():
            value = float(tallied.metrics[task.main_metric][arm])
            return wilson(mean, len(right), effect).scaled(value / mean), WILSON
    return percentile_interval(resampled, len(tallied.statistic.sums)), BOOTSTRAP

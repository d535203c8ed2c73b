"""Metrics of a task as functions of sums over units, and their intervals; used by `run`, `report` and `score`.

A task converts each unit (a question, an MME pair, an MMBench rotation group) to contributions to named sums, and the
sums to metrics. Resampled metrics are therefore exact: the sums are resampled, and the metrics computed from them.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.amounts import Amounts, Coded, ImageSums, narrow
from zoo_exp.statistics.bootstrap import DRAWS, Statistic, percentile_interval
from zoo_exp.statistics.intervals import Floats, Interval, design_effect, wilson
from zoo_exp.tasks.base import Task

Rows = Sequence[Mapping[str, Any]]
SCORE, QUESTIONS = "sum of question scores", "number of questions"
"""Additional sums of every task, for the mean score."""
MEAN_SCORE = "mean score"
PART = 4096
"""Rows that are tallied together."""
BOOTSTRAP, WILSON = "bootstrap by image", "Wilson by image"


@dataclass(frozen=True)
class Tallied:
    """Metrics of a task for A arms, with the sums and unit scores from which they are computed.

    Attributes:
        metrics: every metric of every arm, equal to `task.aggregate` of its rows [A].
        statistic: the metrics as functions of sums per image, for resampling.
        unit_images: image number of each unit, 0 to G - 1 [U].
        proportion: whether `main_metric` is the share of correct units.
        scores: different scores of units.
        units_of: number in `scores` of each unit, by arm [A][U].
    """

    metrics: dict[str, Floats]
    statistic: Statistic
    unit_images: NDArray[np.int64]
    proportion: bool
    scores: Floats
    units_of: Sequence[NDArray[Any]]

    @property
    def units(self) -> int:
        """U, the number of questions, MME pairs, or MMBench rotation groups."""
        return len(self.unit_images)

    def unit_scores(self, arm: int) -> Floats:
        """Score of each unit under an arm, 0 to 1; nan for units that it lacks [U]."""
        return np.asarray(self.scores[self.units_of[arm]])


def tally(task: Task, rows: Sequence[Rows], clusters: NDArray[np.int64], images: Sequence[str]) -> Tallied:
    """Compute the sums and metrics of one task.

    The rows of one arm are read at a time, and in parts where a task can tally some units without the others.

    Args:
        task: the task.
        rows: sample id and score parts of the same n questions, by arm [A][n].
        clusters: image number of each question [n].
        images: image keys for resampling [G].

    Raises:
        InvalidValueError: the metric is undefined for these rows (half an MME pair), or the task lacks its main metric.
    """
    numbers, unit_images, ends = _units(task, rows[0], clusters)
    amounts, units_of, scores, totals = Amounts(), [], [], []
    for own in rows:
        of_unit, of_rows = np.zeros(len(numbers), np.int64), array("d")
        unknown = set()
        for part in _parts(own, ends):
            of_rows.extend(math.nan if row["score"] is None else row["score"] for row in part)
            for one in task.tallies(part):
                unit = numbers.get(one.unit, -1)
                if unit < 0:
                    unknown.add(one.unit)
                elif before := of_unit[unit]:
                    of_unit[unit] = amounts.joined(before, one.score, one.counts)
                else:
                    of_unit[unit] = amounts.number(one.score, one.counts)
        if unknown:
            raise InvalidValueError(
                f"task {task.name}: tallies returns the unit '{min(unknown)}', but unit_name returns it for no row; "
                f"units of rows are {', '.join(sorted(numbers)[:3])} ..."
            )
        totals.append(amounts.totals(of_unit))
        units_of.append(narrow(of_unit, int(of_unit.max())))
        scores.append(Coded.of(np.array(of_rows)))
    values = [task.metrics(own) for own in totals]
    if any(task.main_metric not in value for value in values):
        raise InvalidValueError(
            f"task {task.name} has no metric '{task.main_metric}': its metrics are {', '.join(sorted(values[0]))}"
        )
    used = np.any([own > 0 for own in units_of], axis=0)
    if not used.all():  # units that the metric ignores
        unit_images, units_of = unit_images[used], [own[used] for own in units_of]
    known, names = amounts.scores(), amounts.names
    sums = ImageSums(
        names, [amounts.amounts(name) for name in names], units_of, unit_images, scores, clusters, len(images)
    )
    return Tallied(
        metrics={name: np.array([value.get(name, np.nan) for value in values]) for name in values[0]},
        statistic=Statistic((*names, SCORE, QUESTIONS), sums, images, _Metrics(task, tuple(names))),
        unit_images=unit_images,
        proportion=task.mean_of_units
        and all(np.isin(known[np.unique(own)], (0.0, 1.0)).all() for own in units_of),
        scores=known,
        units_of=units_of,
    )


def _units(
    task: Task, rows: Rows, clusters: NDArray[np.int64]
) -> tuple[dict[str, int], NDArray[np.int64], list[int]]:
    """Number of each unit by its name, its image, and the ends of parts of the rows that share no unit."""
    numbers: dict[str, int] = {}
    of_row = np.fromiter(
        (numbers.setdefault(task.unit_name(row), len(numbers)) for row in rows), np.int64, len(rows)
    )
    unit_images, last = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
    places = np.arange(len(rows))
    np.maximum.at(last, of_row, places)
    unit_images[:] = clusters[last]
    if not task.separable:
        return numbers, unit_images, [len(rows)]
    # A part may end where no unit goes on.
    ends = np.flatnonzero(np.maximum.accumulate(last[of_row]) == places) + 1
    chosen = ends[np.minimum(np.searchsorted(ends, np.arange(PART, len(rows) + PART, PART)), len(ends) - 1)]
    return numbers, unit_images, np.unique(chosen).tolist()


def _parts(rows: Rows, ends: Sequence[int]) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    start = 0
    for end in ends:
        yield list(islice(left, end - start))
        start = end


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
        right = tallied.unit_scores(arm)
        mean, effect = float(right.mean()), design_effect(right, tallied.unit_images)
        if tallied.proportion:
            return wilson(mean, len(right), effect).scaled(task.scale.maximum), WILSON
        if mean > 0 and right.min() == right.max():
            value = float(tallied.metrics[task.main_metric][arm])
            return wilson(mean, len(right), effect).scaled(value / mean), WILSON
    return percentile_interval(resampled, len(tallied.statistic.sums)), BOOTSTRAP

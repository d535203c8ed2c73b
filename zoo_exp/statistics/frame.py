"""The data frame behind all tables: one row per arm and task, and one average row per arm."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.runs.reading import MILLISECONDS, REQUESTS
from zoo_exp.statistics.alignment import COSTS, TaskSamples
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import percentile_interval, retained
from zoo_exp.statistics.comparisons import Contest, average_contest, best_rows, task_contest
from zoo_exp.statistics.estimates import TaskEstimate, fewest_images, mean_over_tasks
from zoo_exp.statistics.intervals import Floats, seed_spread
from zoo_exp.statistics.tallies import BOOTSTRAP, MEAN_SCORE

AVERAGE = "average"
MEASURED = ("kept_tokens", "layer_tokens", "n_visual", *COSTS, *MILLISECONDS)


@dataclass(frozen=True)
class Table:
    """The R rows of a table with the estimates of every task; shared by the frame and the comparisons.

    Attributes:
        rows: the rows.
        tasks: estimates of each task.
        reference: number of the row that keeps every token, or None.
        above: rows that kept more tokens than their budget allows (see `comparisons.above_budget`).
    """

    rows: Sequence[ArmRow]
    tasks: Sequence[TaskEstimate]
    reference: int | None
    above: Set[int]

    @property
    def contest(self) -> Contest:
        """The retained average and its bootstrap draws."""
        return average_contest(
            self.tasks,
            mean_over_tasks([task.retained for task in self.tasks]),
            mean_over_tasks([task.retained_resampled for task in self.tasks]),
            fewest_images(self.tasks),
        )


def build_frame(table: Table, timings: pd.DataFrame) -> pd.DataFrame:
    """Build the frame: arm by arm, tasks in order, the average last; for columns see `Results.frame`.

    Args:
        table: rows and estimates.
        timings: from `reading.read_timings`.
    """
    shown = [_task_lines(table, task, timings) for task in table.tasks]
    averages = _average_lines(table, shown, (*MEASURED[: -len(MILLISECONDS)], *times_of(timings)))
    return pd.DataFrame([line for own in zip(*shown, averages, strict=True) for line in own])


def _task_lines(table: Table, task: TaskEstimate, timings: pd.DataFrame) -> list[dict[str, Any]]:
    samples = task.samples
    best = best_rows(table.rows, task_contest(task), table.above)
    timed = timings[timings["task"] == task.task.name].set_index("arm")[times_of(timings)]
    return [
        _identity(row)
        | {"task": task.task.name, "metric": task.task.main_metric, "value": float(task.value[index])}
        | {"low": task.intervals[index].low, "high": task.intervals[index].high}
        | {"interval": task.methods[index], "n": len(samples.sample_ids), "images": samples.images}
        | _retained(task.retained, task.retained_resampled, index, samples.images)
        | {"best": index in best, "above_budget": index in table.above}
        | {"seed_sd": seed_spread(task.seed_values[index])}
        | _measured(samples, row)
        | _milliseconds(timed, row)
        | {"units": task.tallied.units}
        for index, row in enumerate(table.rows)
    ]


def _average_lines(
    table: Table, shown: Sequence[Sequence[dict[str, Any]]], measured: Sequence[str]
) -> list[dict[str, Any]]:
    contest, tasks = table.contest, table.tasks
    best = best_rows(table.rows, contest, table.above)
    scores = mean_over_tasks([task.score_resampled for task in tasks])
    lines = []
    for index, row in enumerate(table.rows):
        mine = [task_lines[index] for task_lines in shown]
        interval = percentile_interval(scores[:, index], contest.images)
        lines.append(
            _identity(row)
            | {"task": AVERAGE, "metric": MEAN_SCORE}
            | {"value": float(np.mean([task.score[index] for task in tasks]))}
            | {"low": interval.low, "high": interval.high, "interval": BOOTSTRAP}
            | {name: sum(line[name] for line in mine) for name in ("n", "images")}
            | _retained(contest.value, contest.resampled, index, contest.images)
            | {"best": index in best, "above_budget": index in table.above}
            | {"seed_sd": _average_spread(table, row, index)}
            | {name: _mean(np.array([line[name] for line in mine])) for name in measured}
            | {"units": sum(line["units"] for line in mine)}
        )
    return lines


def _average_spread(table: Table, row: ArmRow, index: int) -> float:
    """Standard deviation of the retained average between the seeds of a row."""
    seeds = [task.seed_values[index] for task in table.tasks]
    if table.reference is None or any(len(values) != len(row.members) for values in seeds):
        return math.nan
    full = [task.value[table.reference] for task in table.tasks]
    shares = [retained(np.array([whole, *values]), 0)[1:] for values, whole in zip(seeds, full, strict=True)]
    return seed_spread(np.mean(shares, axis=0))


def _identity(row: ArmRow) -> dict[str, Any]:
    return {
        "arm": row.label,
        "row": row.row,
        "selector": row.selector,
        "options": row.options,
        "budget": row.budget,
        "seeds": len(row.members),
    }


def _retained(share: Floats, resampled: Floats, index: int, images: int) -> dict[str, float]:
    interval = percentile_interval(resampled[:, index], images)
    return {
        "retained": float(share[index]),
        "retained_low": interval.low,
        "retained_high": interval.high,
    }


def _measured(samples: TaskSamples, row: ArmRow) -> dict[str, float]:
    members = samples.columns(row.members)
    return {
        name: _mean(samples.n_visual if name == "n_visual" else samples.values(name, members))
        for name in ("kept_tokens", "layer_tokens", "n_visual", *COSTS)
    }


def times_of(timings: pd.DataFrame) -> list[str]:
    """Columns of times that the timings have."""
    return [*MILLISECONDS, *(name for name in timings.columns if name == REQUESTS)]


def _milliseconds(timed: pd.DataFrame, row: ArmRow) -> dict[str, float]:
    mine = timed.reindex(row.names).to_numpy(float)
    return {str(name): _mean(mine[:, column]) for column, name in enumerate(timed.columns)}


def measured_tokens(rows: pd.DataFrame) -> pd.Series:
    """Tokens that a budget limits, by row: mean over layers for layer selectors, else tokens that entered."""
    return rows["layer_tokens"].fillna(rows["kept_tokens"])


def _mean(values: Floats) -> float:
    """Mean of the values that are not nan; nan if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan

"""The frame behind every table: one row per arm and task, and per arm one average row."""

import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.runs.reading import MILLISECONDS
from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.bootstrap import Floats, percentile_interval, retained
from zoo_exp.statistics.comparisons import above_budget, best_rows
from zoo_exp.statistics.estimates import TaskEstimate, retained_values
from zoo_exp.statistics.intervals import Interval, seed_spread
from zoo_exp.statistics.rows import ArmRow

AVERAGE = "average"
MEASURED = ("kept_tokens", "layer_tokens", "n_visual", "flops_tflop", *MILLISECONDS)


def build_frame(
    rows: Sequence[ArmRow], tasks: Sequence[TaskEstimate], reference: int | None, timings: pd.DataFrame
) -> pd.DataFrame:
    """Rows arm by arm, tasks in order, the average last; columns as `Results.frame` describes them.

    Args:
        rows: the R rows of a table.
        tasks: the estimates of each task.
        reference: number of the row that keeps every token, or None.
        timings: from `reading.read_timings`.
    """
    above = above_budget(rows, [task.samples for task in tasks])
    shown = [_task_lines(rows, task, reference, timings, above) for task in tasks]
    averages = _average_lines(rows, tasks, reference, shown, above)
    return pd.DataFrame([line for own in zip(*shown, averages, strict=True) for line in own])


def _task_lines(
    rows: Sequence[ArmRow],
    task: TaskEstimate,
    reference: int | None,
    timings: pd.DataFrame,
    above: Set[int],
) -> list[dict[str, Any]]:
    samples = task.samples
    best = best_rows(rows, task.value, task.resampled, above)
    share = retained_values([task], reference)
    resampled = None if reference is None else retained([task.resampled], reference)
    timed = timings[timings["task"] == samples.task].set_index("arm")[list(MILLISECONDS)]
    return [
        _identity(row)
        | {"task": samples.task, "metric": task.metric, "value": float(task.value[index])}
        | {"low": task.intervals[index].low, "high": task.intervals[index].high}
        | {"interval": task.methods[index], "n": len(samples.sample_ids), "images": samples.images}
        | _retained(share, resampled, index)
        | {"best": index in best, "above_budget": index in above}
        | {"seed_sd": seed_spread(task.seed_values[index])}
        | _tokens(samples, row)
        | _milliseconds(timed, row)
        for index, row in enumerate(rows)
    ]


def _average_lines(
    rows: Sequence[ArmRow],
    tasks: Sequence[TaskEstimate],
    reference: int | None,
    shown: Sequence[Sequence[dict[str, Any]]],
    above: Set[int],
) -> list[dict[str, Any]]:
    share = retained_values(tasks, reference)
    resampled = None if reference is None else retained([task.resampled for task in tasks], reference)
    best = set() if resampled is None else best_rows(rows, share, resampled, above)
    scores = np.mean([task.score_resampled for task in tasks], axis=0)
    lines = []
    for index, row in enumerate(rows):
        mine = [task_lines[index] for task_lines in shown]
        interval = percentile_interval(scores[:, index])
        lines.append(
            _identity(row)
            | {"task": AVERAGE, "metric": "mean score"}
            | {"value": float(np.mean([task.score[index] for task in tasks]))}
            | {"low": interval.low, "high": interval.high, "interval": "bootstrap by image"}
            | {name: sum(line[name] for line in mine) for name in ("n", "images")}
            | _retained(share, resampled, index)
            | {"best": index in best, "above_budget": index in above}
            | {"seed_sd": _average_spread(tasks, row, index, reference)}
            | {name: _mean(np.array([line[name] for line in mine])) for name in MEASURED}
        )
    return lines


def _average_spread(tasks: Sequence[TaskEstimate], row: ArmRow, index: int, reference: int | None) -> float:
    """Standard deviation of the retained average between the seeds of a row."""
    seeds = [task.seed_values[index] for task in tasks]
    if reference is None or any(len(values) != len(row.members) for values in seeds):
        return math.nan
    shares = [
        100 * values / task.value[reference] if task.value[reference] > 0 else np.full(len(values), math.nan)
        for values, task in zip(seeds, tasks, strict=True)
    ]
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


def _retained(share: Floats, resampled: Floats | None, index: int) -> dict[str, float]:
    missing = Interval(math.nan, math.nan)
    interval = missing if resampled is None else percentile_interval(resampled[:, index])
    return {
        "retained": float(share[index]),
        "retained_low": interval.low,
        "retained_high": interval.high,
    }


def _tokens(samples: TaskSamples, row: ArmRow) -> dict[str, float]:
    members = [samples.arm_ids.index(member) for member in row.members if member in samples.arm_ids]
    return {
        "kept_tokens": _mean(samples.kept[:, members]),
        "layer_tokens": _mean(samples.layers[:, members]),
        "n_visual": _mean(samples.n_visual),
        "flops_tflop": _mean(samples.flops[:, members]),
    }


def _milliseconds(timed: pd.DataFrame, row: ArmRow) -> dict[str, float]:
    mine = timed.reindex(row.names).to_numpy(float)
    return {name: _mean(mine[:, column]) for column, name in enumerate(MILLISECONDS)}


def measured_tokens(rows: pd.DataFrame) -> pd.Series:
    """What a budget limits, by row: of layer selectors the mean over layers, else the tokens that entered."""
    return rows["layer_tokens"].fillna(rows["kept_tokens"])


def _mean(values: Floats) -> float:
    """The mean of what is known, nan if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan

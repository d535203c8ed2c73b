"""Results of an experiment as data frames: a pure function of its records (and timings)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.core.errors import MissingFileError
from zoo_exp.report import arms as arm_rows
from zoo_exp.report.arms import ArmRow
from zoo_exp.report.bootstrap import (
    DRAWS,
    Floats,
    MeanStatistic,
    draw,
    mean_statistic,
    percentile_interval,
    retained,
)
from zoo_exp.report.comparisons import best_rows, compare
from zoo_exp.report.samples import Aggregate, TaskSamples, align, metric_statistic
from zoo_exp.report.statistics import Interval, design_effect, seed_spread, wilson

AVERAGE = "average"
REFERENCE = "full"


@dataclass(frozen=True)
class Results:
    """What the tables, pictures and W&B show.

    Attributes:
        experiment: its name.
        tasks: the tasks that have records, in the experiment's order.
        frame: one row per (arm, task), and per arm one with task `average`. There `value` is the mean over tasks of the
            mean score (0 to 1) and `retained` the mean over tasks of metric / metric at full tokens (percent).
        comparisons: paired differences of the retained average (percentage points) with interval and sign test.
        notes: what a reader must know: missing arms, questions left out.
        draws: bootstrap draws.
        seed: seed of the draws.
        provenance: versions and machine.
    """

    experiment: str
    tasks: list[str]
    frame: pd.DataFrame
    comparisons: pd.DataFrame
    notes: list[str]
    draws: int
    seed: int
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """One task, computed: everything over the table's R rows; nan where a row has no records."""

    samples: TaskSamples
    metric: str
    value: Floats  # [R]
    resampled: Floats  # [B, R]
    score: Floats  # [R]
    score_resampled: Floats  # [B, R]
    intervals: list[Interval]
    methods: list[str]
    seed_values: list[Floats]


def compute(
    experiment: str,
    records: pd.DataFrame,
    timings: pd.DataFrame,
    tasks: Sequence[str],
    arms: Sequence[Mapping[str, Any]],
    aggregate: Aggregate,
    main_metric: Callable[[str], str],
    draws: int = DRAWS,
    seed: int = 0,
) -> Results:
    """Compute every number of an experiment's tables.

    Args:
        experiment: its name.
        records: from `records.read_records`.
        timings: from `records.read_timings`.
        tasks: in the order of the table's columns.
        arms: in the order of the table's rows; each a mapping with `arm`, `arm_id`, `selector`, `options`, `budget`.
            Without any, the arms of the records are taken in order of appearance.
        aggregate: function (task, rows) -> metrics, where a row is `sample_id` and a record's parts.
        main_metric: function task -> name of the metric that the table shows.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        MissingFileError: none of the tasks has records.
    """
    columns = ["arm", "arm_id", "selector", "options", "budget"]
    known = list(arms) or records.drop_duplicates("arm_id")[columns].to_dict("records")
    rows = arm_rows.group(known)
    ids = [member for row in rows for member in row.members]
    notes: list[str] = []
    computed = []
    for task in tasks:
        samples = align(records, task, ids)
        if samples is None:
            notes.append(f"{task}: no questions answered under every arm yet; left out")
            continue
        notes += _gaps(samples, rows)
        computed.append(_task(samples, rows, aggregate, main_metric(task), draws, seed))
    if not computed:
        raise MissingFileError(
            f"experiment {experiment} has no records of its tasks ({', '.join(tasks)}): start the run again"
        )
    reference = next((i for i, row in enumerate(rows) if row.selector == REFERENCE), None)
    shares = None if reference is None else retained([task.resampled for task in computed], reference)
    if reference is None:
        notes.append("no arm 'full': the retained average is not defined")
    frame = _frame(rows, computed, shares, reference, timings)
    comparisons = compare(rows, [task.samples for task in computed], shares, _retained(computed, reference))
    names = [task.samples.task for task in computed]
    return Results(experiment, names, frame, comparisons, notes, draws, seed)


def _gaps(samples: TaskSamples, rows: Sequence[ArmRow]) -> list[str]:
    notes = []
    absent = [row.label for row in rows if not set(row.members) <= set(samples.arm_ids)]
    if absent:
        notes.append(f"{samples.task}: no records yet for {', '.join(absent)}")
    if samples.dropped:
        total = samples.dropped + len(samples.sample_ids)
        notes.append(
            f"{samples.task}: {samples.dropped} of {total} questions are not answered under every arm yet; left out"
        )
    return notes


def _task(
    samples: TaskSamples,
    rows: Sequence[ArmRow],
    aggregate: Aggregate,
    metric: str,
    draws: int,
    seed: int,
) -> _Task:
    statistic = metric_statistic(samples, aggregate, metric, seed)
    scores = mean_statistic(samples.scores, samples.clusters)
    mixing = np.full((len(samples.arm_ids), len(rows)), 0.0)  # [A, R]: averages the seeds of a row
    for column, row in enumerate(rows):
        present = [samples.arm_ids.index(member) for member in row.members if member in samples.arm_ids]
        mixing[present, column] = 1 / len(present) if len(present) == len(row.members) else math.nan
        if not present:
            mixing[0, column] = math.nan
    resampled = draw(statistic, samples.task, draws, seed)
    score_resampled = draw(scores, samples.task, draws, seed)
    intervals, methods, seed_values = [], [], []
    binary = bool(np.isin(samples.scores, (0.0, 1.0)).all())
    for column, row in enumerate(rows):
        members = [samples.arm_ids.index(member) for member in row.members if member in samples.arm_ids]
        seed_values.append(statistic.value[members])
        if binary and isinstance(statistic, MeanStatistic) and len(row.members) == 1 and members:
            answers = samples.scores[:, members[0]]
            effect = design_effect(answers, samples.clusters)
            plain = wilson(float(answers.mean()), len(answers), effect)
            intervals.append(Interval(statistic.scale * plain.low, statistic.scale * plain.high))
            methods.append("Wilson, by image")
        else:
            intervals.append(percentile_interval(resampled @ mixing[:, column]))
            methods.append("bootstrap by image")
    return _Task(
        samples,
        metric,
        statistic.value @ mixing,
        resampled @ mixing,
        scores.value @ mixing,
        score_resampled @ mixing,
        intervals,
        methods,
        seed_values,
    )


def _retained(computed: Sequence[_Task], reference: int | None) -> Floats:
    """Retained average as recorded, in percent [R]."""
    if reference is None:
        return np.full(len(computed[0].value), math.nan)
    return retained([task.value[None] for task in computed], reference)[0]


def _frame(
    rows: Sequence[ArmRow],
    computed: Sequence[_Task],
    shares: Floats | None,
    reference: int | None,
    timings: pd.DataFrame,
) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    for task in computed:
        name = task.samples.task
        best = best_rows(rows, task.value, task.resampled)
        own = None if reference is None else retained([task.resampled], reference)
        share = _retained([task], reference)
        for index, row in enumerate(rows):
            lines.append(
                _identity(row, index)
                | {"task": name, "metric": task.metric, "value": task.value[index]}
                | {"low": task.intervals[index].low, "high": task.intervals[index].high}
                | {"interval": task.methods[index], "n": len(task.samples.sample_ids)}
                | {"images": task.samples.images, "retained": share[index]}
                | _interval("retained", None if own is None else own[:, index])
                | {"best": index in best, "seed_sd": seed_spread(task.seed_values[index])}
                | _tokens(task.samples, row)
                | _milliseconds(timings, name, row)
            )
    lines += _averages(rows, computed, shares, reference, pd.DataFrame(lines))
    order = {name: place for place, name in enumerate([*(t.samples.task for t in computed), AVERAGE])}
    frame = pd.DataFrame(lines)
    frame["_task"] = frame["task"].map(order)
    return frame.sort_values(["_row", "_task"], kind="stable", ignore_index=True).drop(columns=["_row", "_task"])


def _averages(
    rows: Sequence[ArmRow],
    computed: Sequence[_Task],
    shares: Floats | None,
    reference: int | None,
    lines: pd.DataFrame,
) -> list[dict[str, Any]]:
    share = _retained(computed, reference)
    best = set() if shares is None else best_rows(rows, share, shares)
    scores = np.mean([task.score_resampled for task in computed], axis=0)
    averages = []
    for index, row in enumerate(rows):
        mine = lines[lines["_row"] == index]
        interval = percentile_interval(scores[:, index])
        seeds = np.array([task.seed_values[index] for task in computed if len(task.seed_values[index])])
        per_seed = math.nan
        if reference is not None and len(row.members) > 1 and seeds.shape == (len(computed), len(row.members)):
            full = np.array([task.value[reference] for task in computed])
            per_seed = seed_spread((100 * seeds / full[:, None]).mean(0))
        means = ["kept_tokens", "n_visual", "flops_tflop", "select_ms", "generate_ms", "vision_ms"]
        averages.append(
            _identity(row, index)
            | {"task": AVERAGE, "metric": "mean score"}
            | {"value": float(np.mean([task.score[index] for task in computed]))}
            | {"low": interval.low, "high": interval.high, "interval": "bootstrap by image"}
            | {"n": int(mine["n"].sum()), "images": int(mine["images"].sum()), "retained": share[index]}
            | _interval("retained", None if shares is None else shares[:, index])
            | {"best": index in best, "seed_sd": per_seed}
            | {name: float(mine[name].mean()) for name in means}
        )
    return averages


def _identity(row: ArmRow, index: int) -> dict[str, Any]:
    return {
        "_row": index,
        "arm": row.label,
        "selector": row.selector,
        "options": row.options,
        "budget": row.budget,
        "seeds": len(row.members),
    }


def _interval(name: str, values: Floats | None) -> dict[str, float]:
    interval = Interval(math.nan, math.nan) if values is None else percentile_interval(values)
    return {f"{name}_low": interval.low, f"{name}_high": interval.high}


def _tokens(samples: TaskSamples, row: ArmRow) -> dict[str, float]:
    members = [samples.arm_ids.index(member) for member in row.members if member in samples.arm_ids]
    return {
        "kept_tokens": _mean(samples.kept[:, members]),
        "n_visual": _mean(samples.n_visual),
        "flops_tflop": _mean(samples.flops[:, members]),
    }


def _milliseconds(timings: pd.DataFrame, task: str, row: ArmRow) -> dict[str, float]:
    mine = timings[(timings["task"] == task) & timings["arm"].isin(row.names)]
    return {name: _mean(mine[name].to_numpy(float)) for name in ("select_ms", "generate_ms", "vision_ms")}


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan

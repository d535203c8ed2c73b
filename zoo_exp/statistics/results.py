"""Results of an experiment as data frames: a pure function of its records (and timings)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from zoo_exp.errors import MissingFileError, ZooExpError
from zoo_exp.runs.reading import recorded_arms
from zoo_exp.statistics.alignment import Aggregate, Scoring, TaskSamples, align
from zoo_exp.statistics.bootstrap import DRAWS, retained
from zoo_exp.statistics.comparisons import above_budget, compare
from zoo_exp.statistics.contribution import contributions
from zoo_exp.statistics.difficulty import split
from zoo_exp.statistics.estimates import TaskEstimate, estimate, retained_values
from zoo_exp.statistics.frame import AVERAGE, build_frame
from zoo_exp.statistics.rows import ArmRow, group
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks.base import FRACTION, Scale

REFERENCE = "full"
SUBMISSION = "submission"  # main metric of tasks whose right answers are not public


@dataclass(frozen=True)
class Results:
    """What the tables, pictures and W&B show.

    Attributes:
        experiment: its name.
        tasks: the tasks that have records, in the experiment's order.
        frame: one row per (arm, task), and per arm one with task `average`. There `value` is the mean over
            tasks of the mean score (0 to 1), `retained` that of metric / metric of full (percent).
        comparisons: paired differences of the retained average (percentage points), intervals, sign tests.
        notes: what a reader must know: missing arms, questions left out.
        draws: bootstrap draws.
        seed: seed of the draws.
        provenance: versions and machine.
        contribution: full against blind by task (see `contribution.contributions`).
        difficulty: retained score on easy and on difficult questions (see `difficulty.split`).
        units: task -> unit and range of its metric, where the task is not one of the registry.
        published: rows with a published counterpart, which stand in tables of their own (see `published.join`).
    """

    experiment: str
    tasks: list[str]
    frame: pd.DataFrame
    comparisons: pd.DataFrame
    notes: list[str]
    draws: int
    seed: int
    provenance: dict[str, Any] = field(default_factory=dict)
    contribution: pd.DataFrame = field(default_factory=pd.DataFrame)
    difficulty: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    units: Mapping[str, Scale] = field(default_factory=dict)

    @cached_property
    def lines(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The frame as plain rows: arm -> task -> row, in the order of the table."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for line in self.frame.to_dict("records"):
            found.setdefault(str(line["arm"]), {})[str(line["task"])] = {str(k): v for k, v in line.items()}
        return found

    @cached_property
    def scales(self) -> dict[str, float]:
        """Task -> what its metric is multiplied by for display: 100 for fractions, 1 for percents and points."""
        declared = {task: self.units.get(task) or get_task(task).scale for task in self.tasks}
        return {task: scale.factor for task, scale in declared.items()} | {AVERAGE: FRACTION.factor}


def compute(
    experiment: str,
    records: pd.DataFrame,
    timings: pd.DataFrame,
    tasks: Sequence[str],
    arms: Sequence[Mapping[str, Any]],
    aggregate: Aggregate,
    main_metric: Callable[[str], str],
    scoring: Callable[[str], Scoring] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Results:
    """Compute every number of an experiment's tables.

    Args:
        experiment: its name.
        records: from `reading.read_records`.
        timings: from `reading.read_timings`.
        tasks: in the order of the table's columns.
        arms: mappings with `arm`, `arm_id`, `selector`, `options`, `budget`, in the order of the rows;
            without any, the arms of the records are taken in order of appearance.
        aggregate: function (task, rows) -> metrics, where a row is `sample_id` and a record's parts.
        main_metric: function task -> name of the metric that the table shows.
        scoring: function task -> the task itself; with it, metrics that are no mean (F1, MME) are resampled
            exactly and fast, without it by their linear approximation.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        MissingFileError: none of the tasks has records.
        ZooExpError: no task's metric can be computed.
    """
    rows = group(list(arms) or recorded_arms(records))
    ids = [member for row in rows for member in row.members]
    notes: list[str] = []
    computed: list[TaskEstimate] = []
    problems: list[ZooExpError] = []
    for task in tasks:
        if main_metric(task) == SUBMISSION:
            notes.append(f"{task}: left out, its answers are scored by the benchmark's server")
            continue
        samples = align(records, task, ids)
        if samples is None:
            notes.append(f"{task}: no questions answered under every arm yet; left out")
            continue
        notes += _gaps(samples, rows)
        sums = scoring(task) if scoring else None
        try:
            computed.append(estimate(samples, rows, aggregate, main_metric(task), sums, draws, seed))
        except ZooExpError as error:
            # Half a run can lack what a metric needs (one question of a pair); others still have a table.
            problems.append(error)
            notes.append(f"{task}: left out, its metric cannot be computed: {error}")
    if not computed and problems:
        raise problems[0]
    if not computed:
        raise MissingFileError(
            f"experiment {experiment} has no records of its tasks ({', '.join(tasks)}): start the run again"
        )
    reference = next((i for i, row in enumerate(rows) if row.selector == REFERENCE), None)
    shares = None if reference is None else retained([task.resampled for task in computed], reference)
    if reference is None:
        notes.append("no arm 'full': the retained average is not defined")
    notes += _untimed(rows, timings)
    return Results(
        experiment=experiment,
        tasks=[task.samples.task for task in computed],
        frame=build_frame(rows, computed, reference, timings),
        comparisons=compare(
            rows,
            [task.samples for task in computed],
            shares,
            retained_values(computed, reference),
            above_budget(rows, [task.samples for task in computed]),
        ),
        notes=notes,
        draws=draws,
        seed=seed,
        contribution=contributions(rows, computed),
        difficulty=split(rows, [task.samples for task in computed], reference, draws, seed),
    )


def _untimed(rows: Sequence[ArmRow], timings: pd.DataFrame) -> list[str]:
    """Times belong to the process that measured them: a run that takes over an arm's answers has none for it."""
    timed = set(timings["arm"])
    missing = [row.label for row in rows if not timed & set(row.names)]
    if not missing:
        return []
    who = ", ".join(missing) if timed else "any arm"
    return [f"no times for {who}: the answers were taken over from earlier runs, none was given in this one"]


def _gaps(samples: TaskSamples, rows: Sequence[ArmRow]) -> list[str]:
    notes = []
    absent = [row.label for row in rows if not set(row.members) <= set(samples.arm_ids)]
    if absent:
        notes.append(f"{samples.task}: no records yet for {', '.join(absent)}")
    if samples.dropped:
        total = samples.dropped + len(samples.sample_ids)
        notes.append(
            f"{samples.task}: {samples.dropped} of {total} questions are left out, "
            "as not every arm has answered them yet"
        )
    return notes

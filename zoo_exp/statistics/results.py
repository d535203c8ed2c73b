"""Results of an experiment as data frames: a pure function of its records (and timings).

`Results` is all that `report/` and `tracking/` read. Modules of this package in reading order: `arm_rows` (which
arms share a row), `alignment` (the same questions under every arm), `tallies` (metrics as sums),
`bootstrap` and `intervals` (methods), `estimates` (one task), `comparisons` (pairs of rows), `frame` (the table),
then `claims`, `equal_flops`, `contribution`, `difficulty` and `details`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.errors import MissingFileError, ZooExpError
from zoo_exp.runs.records import ARMS_IN_CALL
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.alignment import TaskSamples, align
from zoo_exp.statistics.applicable import applicable
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.bootstrap import DRAWS, MOST_UNDEFINED
from zoo_exp.statistics.claims import decide
from zoo_exp.statistics.comparisons import Contest, above_budget, compare
from zoo_exp.statistics.contribution import contributions
from zoo_exp.statistics.details import details
from zoo_exp.statistics.difficulty import split
from zoo_exp.statistics.equal_flops import match
from zoo_exp.statistics.estimates import TaskEstimate, estimate
from zoo_exp.statistics.focus import Judges, focus_rows, outcomes
from zoo_exp.statistics.frame import AVERAGE, Table, build_frame
from zoo_exp.statistics.unreadable import notes as unreadable_notes
from zoo_exp.statistics.unreadable import unreadable
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks.base import Task
from zoo_exp.tasks.scale import FRACTION, Scale

REFERENCE = "full"
SUBMISSION = "submission"  # main metric of tasks whose reference answers are not public
FEW_UNITS = 100
"""With fewer units, 95 % intervals cover the true value in less than 95 % of cases (benchmarks/coverage.py)."""


@dataclass(frozen=True)
class Results:
    """Everything that tables, figures and W&B show.

    Attributes:
        experiment: its name.
        tasks: names of the tasks that have records, in the experiment's order.
        frame: one row per (arm, task), and one row per arm with task `average`. Columns:

            * arm, row, selector, options, budget, seeds: the row of the table (`arm` is `row` with the number of
              seeds); `options` is JSON, `seeds` their number.
            * task, metric, value: the main metric in its unit (see `units`); in the average row, the mean over tasks
              of the mean score, 0 to 1.
            * low, high, interval: 95 % interval of `value`, and its method.
            * n, images, units: questions, different images, and units of the metric (MME pairs, MMBench groups).
            * retained, retained_low, retained_high: metric in percent of the full-token arm's; in the average row, the
              mean over tasks.
            * best: significantly better than every other row of its budget (see `comparisons.Rival.significant`).
            * above_budget: keeps more visual tokens than the budget allows, and is excluded from comparisons.
            * seed_sd: standard deviation between seeds, of `value`; in the average row of `retained`.
            * kept_tokens, layer_tokens, n_visual: mean number of visual tokens that entered the language model, at the
              input of a decoder layer (layer selectors), and before pruning.
            * flops_tflop, prefill_tflop, selector_tflop: TFLOP per response, and its prefill and selector parts.
            * select_ms, prefill_decode_ms, vision_ms: milliseconds per question, median over batches.
            * requests_per_s: responses per second; only in runs of an engine with continuous batching.

        comparisons: the best row of each budget compared with each other row: difference of the retained averages in
            percentage points, its paired interval, exact test, and the p value after Holm's correction.
        claims: what the data say about the experiment's claims (see `claims.decide`).
        equal_flops: layer selectors beside input selectors of about the same cost (see `equal_flops.match`).
        notes: notes for readers: missing arms, excluded questions, few units, missing intervals.
        draws: bootstrap draws.
        seed: seed of the draws.
        provenance: versions and machine.
        contribution: image contribution by task (see `contribution.contributions`).
        difficulty: retained score on easy and on difficult questions (see `difficulty.split`).
        details: secondary metrics, and metrics of groups of questions (see `details.details`).
        unreadable: share of responses without the kind of answer that the prompt asks for (see `unreadable`).
        published: rows with a published counterpart, shown in separate tables (see `published.join`).
        not_applicable: (task, arm) of the table cells without a number, as questions do not apply to the arm.
        units: task -> unit and range of its metric; other tasks are looked up in the registry.
        rows: the arms, in the order of the table.
        contest: the retained averages with their draws, for further comparisons; None in results that were not computed
            here.
        above: places in `rows` of the arms that keep more visual tokens than their budget allows.
        focus: label of the arm that a report is about, at its smallest budget; empty without one.
        focus_comparisons: like `comparisons`, with the focus in the place of the best row, at each of its budgets.
        outcomes: successes and failures of the focus (see `focus.outcomes`).
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
    details: pd.DataFrame = field(default_factory=pd.DataFrame)
    unreadable: pd.DataFrame = field(default_factory=pd.DataFrame)
    published: pd.DataFrame = field(default_factory=pd.DataFrame)
    claims: pd.DataFrame = field(default_factory=pd.DataFrame)
    equal_flops: pd.DataFrame = field(default_factory=pd.DataFrame)
    units: Mapping[str, Scale] = field(default_factory=dict)
    not_applicable: frozenset[tuple[str, str]] = frozenset()
    rows: tuple[ArmRow, ...] = ()
    contest: Contest | None = None
    above: frozenset[int] = frozenset()
    focus: str = ""
    focus_comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    outcomes: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def lines(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The frame as dictionaries: arm -> task -> row, in the order of the table."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for line in self.frame.to_dict("records"):
            found.setdefault(str(line["arm"]), {})[str(line["task"])] = {str(k): v for k, v in line.items()}
        return found

    @cached_property
    def scales(self) -> dict[str, float]:
        """Task -> display factor of its metric: 100 for fractions, 1 for percent and points."""
        declared = {task: self.units.get(task) or get_task(task).scale for task in self.tasks}
        return {task: scale.factor for task, scale in declared.items()} | {AVERAGE: FRACTION.factor}


def compute(
    experiment: str,
    records: "Answers | pd.DataFrame",
    timings: pd.DataFrame,
    tasks: Sequence[Task] | Mapping[str, Task],
    arms: Sequence[Mapping[str, Any]],
    draws: int = DRAWS,
    seed: int = 0,
    claims: Sequence[Mapping[str, Any]] = (),
    limit: int | None = None,
) -> Results:
    """Compute every number of an experiment's tables.

    Args:
        experiment: its name.
        records: from `run_answers.read_answers`, or a data frame from `reading.read_records`, which takes more memory.
        timings: from `reading.read_timings`.
        tasks: in the order of the table's columns.
        arms: mappings with `arm`, `arm_id`, `selector`, `options`, `budget`, in the order of the rows; if empty, the
            arms of the records in order of appearance.
        draws: bootstrap draws.
        seed: seed of the draws.
        claims: mappings with `claim`, `arm` and `against` (rows without their budget).
        limit: units of each task that the experiment asked for; None asked for all.

    Raises:
        MissingFileError: none of the tasks has records.
        ZooExpError: no metric can be computed.
    """
    known = list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)
    answers = records if isinstance(records, Answers) else Answers.of(records)
    rows = group(list(arms) or answers.arms)
    usable = applicable(answers, rows)
    ids = [member for row in rows for member in row.members]
    reference = next((i for i, row in enumerate(rows) if row.selector == REFERENCE), None)
    notes: list[str] = list(usable.notes)
    computed: list[TaskEstimate] = []
    problems: list[ZooExpError] = []
    for task in known:
        if task.main_metric == SUBMISSION:
            notes.append(
                f"{task.name}: excluded, because only the benchmark's server can score its responses"
            )
            continue
        samples = align(usable.answers, task, ids)
        if samples is None:
            notes.append(f"{task.name}: excluded, because no question has responses under every arm yet")
            continue
        notes += _gaps(samples, rows, usable.left_out)
        try:
            computed.append(estimate(samples, rows, reference, draws, seed))
        except ZooExpError as error:
            # An unfinished run can lack rows that a metric needs (half of a pair); other tasks are still shown.
            problems.append(error)
            notes.append(f"{task.name}: excluded, because its metric cannot be computed: {error}")
    if not computed and problems:
        raise problems[0]
    if not computed:
        raise MissingFileError(
            f"experiment {experiment} has no records of its tasks ({', '.join(task.name for task in known)}): "
            "rerun the experiment"
        )
    if reference is None:
        notes.append("no arm 'full': the retained average is undefined")
    samples_of = [task.samples for task in computed]
    above = above_budget(rows, samples_of)
    table = Table(rows, computed, reference, above)
    frame, contest = build_frame(table, timings), table.contest
    unread = unreadable(rows, computed)
    return Results(
        experiment=experiment,
        tasks=[task.task.name for task in computed],
        frame=frame,
        comparisons=compare(rows, contest, above),
        claims=decide(claims, rows, contest, above),
        equal_flops=match(rows, frame, contest),
        notes=[
            *notes,
            *_untimed(rows, timings),
            *_few_units(computed, limit),
            *unreadable_notes(unread),
            *_zero_reference(table),
            *_without_interval(table),
        ],
        draws=draws,
        seed=seed,
        contribution=contributions(rows, computed),
        difficulty=split(rows, samples_of, reference, above, draws, seed),
        details=details(rows, computed),
        unreadable=unread,
        units={task.task.name: task.task.scale for task in computed},
        not_applicable=frozenset(
            (task, row.label) for task, arm in usable.left_out for row in rows if arm in row.members
        ),
        rows=tuple(rows),
        contest=contest,
        above=frozenset(above),
    )


def about(results: Results, answers: Answers, name: str) -> Results:
    """Results with what a report about one arm says: comparisons against it, and its successes and failures.

    Args:
        results: of `compute`.
        answers: the same records.
        name: see `focus.focus_rows`.

    Raises:
        UnknownNameError: no arm has this name.
    """
    mine = focus_rows(results.rows, name)
    places = [results.rows.index(row) for row in mine]
    judges = Judges.of(results.rows, mine[-1])
    notes = [
        f"{results.rows[place].label} keeps more visual tokens than its budget, so it is not compared"
        for place in places
        if place in results.above
    ]
    assert results.contest is not None
    return replace(
        results,
        focus=mine[-1].label,
        focus_comparisons=compare(results.rows, results.contest, results.above, places),
        outcomes=outcomes(answers, results.tasks, judges),
        notes=[*results.notes, *notes],
    )


def _untimed(rows: Sequence[ArmRow], timings: pd.DataFrame) -> list[str]:
    """Notes on arms without times: times are not reused from other runs, and shared calls have none per arm."""
    notes, timed = [], set(timings["arm"])
    missing = [row.label for row in rows if not timed & set(row.names)]
    if missing:
        who = ", ".join(missing) if timed else "any arm"
        notes.append(f"no times for {who}: the responses were reused from earlier runs")
    if ARMS_IN_CALL in timings.columns:
        untimed = (timings[ARMS_IN_CALL] > 1) & timings["prefill_decode_ms"].isna()
        shared = set(timings["arm"][untimed])
        who = ", ".join(row.label for row in rows if shared & set(row.names))
        why = "several arms were answered in one call (engine.arms_per_call); `bench` measures one arm at a time"
        notes += [f"no time of the language model for {who}: {why}"] if who else []
    return notes


def _gaps(samples: TaskSamples, rows: Sequence[ArmRow], left_out: frozenset[tuple[str, str]]) -> list[str]:
    notes = []
    name = samples.task.name
    expected = {*samples.arm_ids, *(arm for task, arm in left_out if task == name)}
    absent = [row.label for row in rows if not set(row.members) <= expected]
    if absent:
        notes.append(f"{name}: no records yet for {', '.join(absent)}")
    if samples.dropped:
        total = samples.dropped + len(samples.sample_ids)
        notes.append(
            f"{name}: {samples.dropped} of {total} questions are excluded, "
            "because some arm has no response to them yet"
        )
    return notes


def _few_units(tasks: Sequence[TaskEstimate], limit: int | None) -> list[str]:
    few = [f"{task.task.name} ({task.tallied.units})" for task in tasks if task.tallied.units < FEW_UNITS]
    if not few:
        return []
    # A task with fewer units than the limit has no more of them.
    more = limit is not None and any(limit <= task.tallied.units < FEW_UNITS for task in tasks)
    return [
        f"fewer than {FEW_UNITS} units (questions, MME pairs, MMBench groups) in {', '.join(few)}: "
        "95 % intervals from so few cover the true value in less than 95 % of cases"
        f"{'; increase the limit' if more else ''}"
    ]


def _zero_reference(table: Table) -> list[str]:
    """Note on tasks in which the full-token arm scores 0, so that there is no share of its score."""
    reference = table.reference
    zero = [] if reference is None else [task for task in table.tasks if task.value[reference] == 0]
    if not zero:
        return []
    others = [task for task in table.tasks if task not in zero]
    names, label = ", ".join(task.task.name for task in zero), table.rows[reference or 0].label
    leave_out = f"; task={_list(others)} gives the average of the other tasks" if others else ""
    return [
        f"no retained average, because {label} scores 0 in {names}, and nothing is a share of 0: see whether the "
        f"model can answer its questions (records.csv has the responses), or ask more of them{leave_out}"
    ]


def _list(tasks: Sequence[TaskEstimate]) -> str:
    """Tasks as the value of `task=`."""
    names = ",".join(task.task.name for task in tasks)
    return names if len(tasks) == 1 else f"[{names}]"


def _without_interval(table: Table) -> list[str]:
    """Note on the reason why retained averages have no interval."""
    value, resampled = table.contest.value, table.contest.resampled
    if table.reference is None or not np.isfinite(value).any():
        return []
    if not (np.isnan(resampled[:, np.isfinite(value)]).mean(0) > MOST_UNDEFINED).any():
        return []
    share = {
        task.task.name: float(np.isnan(task.retained_resampled[:, table.reference]).mean())
        for task in table.tasks
    }
    # The average can exceed the limit even if no single task does.
    limit = MOST_UNDEFINED if max(share.values()) > MOST_UNDEFINED else 0.0
    lacking = [name for name, undefined in share.items() if undefined > limit]
    return [
        f"no interval for retained averages: in more than {100 * MOST_UNDEFINED:g} % of the draws the full-token arm "
        f"scores 0 in {', '.join(lacking)}, so that the retained share is undefined; use more units"
    ]

"""Several runs in one table: an arm per row, a run (a model, a point of a sweep) per column, and paired differences."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo_exp.report.tabular import Cell, Column, Line, Table, build, known, signed, with_interval
from zoo_exp.runs.load import Run
from zoo_exp.runs.titles import columns as names_of
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.comparisons import Contest
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.intervals import CONFIDENCE, Interval, holm
from zoo_exp.statistics.results import Results

CAPTION = (
    "Avg. retained: mean over tasks of the metric in percent of that of the full model of the same run, with 95 % "
    "intervals. Differences to {first} in percentage points, with paired 95 % intervals; bold: the interval excludes 0 "
    "and the exact sign test has p < 0.05 after Holm's correction for all differences of this table."
)
MEAN = "Mean score of the questions, mean over tasks, with 95 % intervals, as not every run has the arm full."
UNPAIRED = "No differences between {first} and {other}: their tasks or questions differ (see compare)."


def side_by_side(runs: Sequence[Run], results: Sequence[Results]) -> Table:
    """The arms of several runs, matched by selector, options and budget.

    Args:
        runs: in the order of the columns; differences are to the first.
        results: their numbers.
    """
    names = names_of(runs)
    rows: dict[Any, dict[int, ArmRow]] = {}
    for place, result in enumerate(results):
        for row in result.rows:
            rows.setdefault(_key(row), {})[place] = row
    retains = all(any(known(value) for value in _average(result, "retained").values()) for result in results)
    paired = [retains and place > 0 and _paired(runs[0], run) for place, run in enumerate(runs)]
    lines: list[dict[str, Any]] = []
    for found in _ordered(rows):
        first = next(iter(found.values()))
        line: dict[str, Any] = {"arm": first.label, "budget": first.budget}
        for place, row in found.items():
            line[f"value {place}"] = _cell(results[place], row, retains)
            if 0 in found and paired[place]:
                line[f"difference {place}"] = _difference(results[0], found[0], results[place], row)
        lines.append(line)
    _correct(lines)
    shown = [Column("Arm", lambda line: str(line["arm"]), left=True)]
    shown += [Column(name, _of(f"value {place}"), unit="%") for place, name in enumerate(names)]
    shown += [
        Column(f"{name} - {names[0]}", _of(f"difference {place}"), unit="(points)")
        for place, name in enumerate(names)
        if paired[place]
    ]
    notes = [
        UNPAIRED.format(first=names[0], other=name)
        for place, name in enumerate(names)
        if retains and place and not paired[place]
    ]
    caption = CAPTION.format(first=names[0]) if retains else MEAN
    title = "Side by side: Avg. retained" if retains else "Side by side: mean score"
    return build("side_by_side", title, shown, lines, caption=caption, notes=notes, group="budget")


def _key(row: ArmRow) -> Any:
    return row.selector, row.options, row.budget


def _ordered(rows: dict[Any, dict[int, ArmRow]]) -> list[dict[int, ArmRow]]:
    """Arms without a budget, then budget by budget, `blind` last; within these by first appearance."""
    budgets = list(dict.fromkeys(key[2] for key in rows if key[2] is not None))

    def place(key: Any) -> int:
        if key[2] is None:
            return len(budgets) if key[0] == "blind" else -1
        return budgets.index(key[2])

    return [rows[key] for key in sorted(rows, key=place)]


def _average(result: Results, column: str) -> dict[str, float]:
    mine = result.frame[result.frame["task"] == AVERAGE]
    return dict(zip(mine["arm"], mine[column], strict=True))


def _cell(result: Results, row: ArmRow, retains: bool) -> Cell:
    line = result.lines[row.label][AVERAGE]
    keys = ("retained", "retained_low", "retained_high") if retains else ("value", "low", "high")
    numbers = [(1.0 if retains else 100.0) * float(line[key]) for key in keys]
    return Cell(with_interval(*numbers), numbers[0] if known(numbers[0]) else None)


def _paired(first: Run, other: Run) -> bool:
    """Whether two runs have answered the same questions, so that the draws of their bootstraps are paired."""
    one, two = first.answers.tasks, other.answers.tasks
    return one.keys() == two.keys() and all(
        set(one[name].sample_ids) == set(two[name].sample_ids) for name in one
    )


def _difference(first: Results, row: ArmRow, second: Results, other: ArmRow) -> dict[str, Any] | None:
    """Second minus first. Draws depend on the seed and the image alone, so those of two runs are the same."""
    one, two = first.contest, second.contest
    if one is None or two is None or first.tasks != second.tasks or len(one.resampled) != len(two.resampled):
        return None
    i, j = first.rows.index(row), second.rows.index(other)
    scores = [
        {f"0 {arm}": mine[arm] for arm in row.members if arm in mine}
        | {f"1 {arm}": own[arm] for arm in other.members if arm in own}
        for mine, own in zip(one.scores, two.scores, strict=True)
    ]
    contest = Contest(
        np.array([two.value[j], one.value[i]]),
        np.stack([two.resampled[:, j], one.resampled[:, i]], axis=1),
        min(one.images, two.images),
        scores,
    )
    rows = [
        replace(each, members=tuple(f"{side} {member}" for member in each.members))
        for side, each in ((1, other), (0, row))
    ]
    test = contest.test(rows[0], rows[1])
    value = float(contest.value[0] - contest.value[1])
    if math.isnan(value):
        return None
    p_value = 1.0 if test is None else test.p_value
    return {"value": value, "interval": contest.interval(0, 1), "p": p_value}


def _correct(lines: Sequence[dict[str, Any]]) -> None:
    """Turn differences into cells, bold where they are significant after Holm's correction."""
    places = [(line, key) for line in lines for key in line if key.startswith("difference ")]
    places = [(line, key) for line, key in places if line[key] is not None]
    adjusted = holm([line[key]["p"] for line, key in places])
    for (line, key), p_holm in zip(places, adjusted, strict=True):
        interval: Interval = line[key]["interval"]
        bold = interval.excludes(0.0) and p_holm < 1 - CONFIDENCE
        value = line[key]["value"]
        line[key] = Cell(signed(value, interval.low, interval.high), value, bold=bold)


def _of(key: str) -> Any:
    def cell(line: Line) -> Cell:
        made = line.get(key)
        return made if isinstance(made, Cell) else Cell()

    return cell

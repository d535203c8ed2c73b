"""A sweep as one table: a line per point and arm, and the metric against the value that is swept."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from zoo_exp.errors import ZooExpError
from zoo_exp.files import write_text
from zoo_exp.report.figure_style import add_legend, error_bars, figure
from zoo_exp.report.renderers import csv_text, latex, markdown, print_table
from zoo_exp.report.runs import results_of
from zoo_exp.report.tables import display_scale, kept, unique_short_names
from zoo_exp.report.tabular import (
    USUALLY,
    WIDE,
    Cell,
    Column,
    Line,
    Table,
    build,
    interval,
    known,
    text,
    value,
)
from zoo_exp.runs.load import load_run
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results

EVERYWHERE = "(all)"
"""The point of arms that no value of the sweep changes."""
CAPTION = "A line per point and arm; {everywhere}: the same arm at every point. Brackets: 95 % confidence intervals."


@dataclass(frozen=True)
class Point:
    """One point of a sweep with its numbers.

    Attributes:
        values: what distinguishes it: key of an override -> value.
        results: of its run.
    """

    values: dict[str, str]
    results: Results

    @property
    def name(self) -> str:
        """The values as text; those of options without `selector.options.`."""
        return " ".join(f"{_short(key)}={shown}" for key, shown in self.values.items())


def load(
    overrides: Sequence[Sequence[str]], runs: Sequence[Path], draws: int = DRAWS
) -> tuple[list[Point], list[str]]:
    """The points of a sweep that have records, and why others are left out.

    Args:
        overrides: of each point.
        runs: their folders.
        draws: bootstrap draws.
    """
    values = swept(overrides)
    found: list[Point] = []
    notes: list[str] = []
    for own, run in zip(values, runs, strict=True):
        try:
            found.append(Point(own, results_of(load_run(run), draws)))
        except ZooExpError as error:
            notes.append(f"{' '.join(f'{k}={v}' for k, v in own.items()) or run.name}: left out: {error}")
    return found, notes


def swept(overrides: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Key -> value of the overrides of each point that are not the same at all of them.

    >>> swept([["budget=16", "seed=0"], ["budget=16", "seed=1"]])
    [{'seed': '0'}, {'seed': '1'}]
    """
    split = [dict(text.lstrip("+").partition("=")[::2] for text in own) for own in overrides]
    keys = dict.fromkeys(key for own in split for key in own)
    differing = [key for key in keys if len({own.get(key) for own in split}) > 1]
    return [{key: own[key] for key in differing if key in own} for own in split]


def sweep_table(points: Sequence[Point], notes: Sequence[str] = ()) -> Table:
    """A line per point and arm: kept tokens, the metric of each task, and the average; with intervals."""
    tasks = list(dict.fromkeys(task for point in points for task in point.results.tasks))
    retains = any(known(line["retained"]) for point in points for line in _averages(point.results).values())
    lines: list[dict[str, Any]] = []
    shared = set.intersection(*({_key(row) for row in point.results.rows} for point in points))
    models = any("model" in key for point in points for key in point.values)
    for number, point in enumerate(points):
        for row in point.results.rows:
            everywhere = len(points) > 1 and _key(row) in shared and not models and _same_answers(points, row)
            if everywhere and number:
                continue
            by_task = point.results.lines[row.label]
            lines.append(
                {
                    **by_task[AVERAGE],
                    "point": EVERYWHERE if everywhere else point.name,
                    "by_task": by_task,
                    "results": point.results,
                }
            )
    names = unique_short_names(tasks)
    columns = [
        Column("Point", text("point"), left=True),
        Column("Arm", text("arm"), left=True),
        Column("kept", kept),
    ]
    if len(tasks) == 1:
        columns.append(Column(names[tasks[0]], _metric(tasks[0])))
    else:
        columns += [Column(names[task], _metric(task, plain=True), level=USUALLY) for task in tasks]
    if len(tasks) > 1 or retains:
        average = interval("retained", "retained_low", "retained_high", bar=True)
        mean = interval("value", "low", "high", scale=100)
        columns += [Column("Avg. retained", average, unit="%")] if retains else []
        columns.append(Column("mean score", mean, unit="%", level=WIDE if retains else 0))
    columns.append(Column("select", value("select_ms", 2), unit="ms", level=WIDE))
    caption = CAPTION.format(everywhere=EVERYWHERE)
    told = [*notes, *dict.fromkeys(note for point in points for note in point.results.notes)]
    return build(
        "sweep", "Sweep", columns, lines, caption=caption, notes=[f"{note.rstrip('.')}." for note in told]
    )


def curve(points: Sequence[Point], path: Path, narrow: bool = False) -> bool:
    """The retained average, or the metric of the only task, against the swept value with the most values.

    False for fewer than two values, or without a number to draw.
    """
    counts = {
        key: len({point.values.get(key) for point in points}) for point in points for key in point.values
    }
    if not counts:
        return False
    axis = max(counts, key=lambda key: counts[key])
    order = list(dict.fromkeys(point.values.get(axis, "") for point in points))
    numbers = [_number(shown) for shown in order]
    places = {shown: number for shown, number in zip(order, numbers, strict=True)}
    if any(math.isnan(number) for number in numbers):
        places = {shown: float(place) for place, shown in enumerate(order)}
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        others = " ".join(f"{_short(key)}={shown}" for key, shown in point.values.items() if key != axis)
        for row in point.results.rows:
            label = " ".join(filter(None, (_label(row, axis), others)))
            line = _shown(point.results, row)
            if axis in point.values and known(line["retained"]):
                lines.setdefault(label, []).append({**line, "x": places[point.values[axis]]})
    shown = {label: pd.DataFrame(own).sort_values("x") for label, own in lines.items() if len(own) > 1}
    if not shown:
        return False
    results = points[0].results
    with figure(path, (5.0, 3.6), legend=len(shown), narrow=narrow) as (axes,):
        for number, (label, rows) in enumerate(shown.items()):
            error_bars(axes, rows["x"].to_numpy(float), rows, number, label)
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlabel(_short(axis))
        one = results.tasks[0] if len(results.tasks) == 1 else ""
        axes.set_ylabel(
            f"{one}: {results.lines[results.rows[0].label][one]['metric']}" if one else "retained average, %"
        )
        add_legend(axes, narrow)
    return True


def write(
    folder: Path,
    overrides: Sequence[Sequence[str]],
    runs: Sequence[Path],
    console: Console,
    draws: int = DRAWS,
) -> None:
    """Print the table of a sweep, and write it and its curve (Markdown, CSV, LaTeX, PNG, SVG).

    Args:
        folder: where the files go.
        overrides: of each point.
        runs: their folders.
        console: prints.
        draws: bootstrap draws.
    """
    points, notes = load(overrides, runs, draws)
    if not points:
        for note in notes:
            console.print(note, soft_wrap=True)
        return
    table = sweep_table(points, notes)
    console.print()
    print_table(table, console)
    drawn = curve(points, folder / "curve") and curve(points, folder / "curve", narrow=True)
    write_text(folder / "sweep.csv", csv_text(table))
    write_text(folder / "sweep.tex", latex(table, "sweep"))
    figure_line = "\n\n![The metric against the swept value](curve.svg)" if drawn else ""
    write_text(folder / "sweep.md", markdown(table, "#") + figure_line + "\n")
    console.print(f"table{' and curve' if drawn else ''} of the sweep: {folder}", soft_wrap=True)


def _averages(results: Results) -> dict[str, dict[str, Any]]:
    return {arm: by_task[AVERAGE] for arm, by_task in results.lines.items()}


def _key(row: ArmRow) -> Any:
    return row.members


def _same_answers(points: Sequence[Point], row: ArmRow) -> bool:
    """Whether an arm has the same numbers at every point, as other seeds or limits would change them."""
    found = []
    for point in points:
        label = next(other.label for other in point.results.rows if _key(other) == _key(row))
        line = point.results.lines[label][AVERAGE]
        found.append((line["value"], line["n"]))
    return len(set(found)) == 1


def _shown(results: Results, row: ArmRow) -> dict[str, Any]:
    """What the curve shows of an arm: the metric of the only task, or the retained average."""
    by_task = results.lines[row.label]
    if len(results.tasks) > 1:
        return by_task[AVERAGE]
    line, scale = by_task[results.tasks[0]], display_scale(results, results.tasks[0])
    names = {"retained": "value", "retained_low": "low", "retained_high": "high"}
    return {key: scale * float(line[name]) for key, name in names.items()}


def _metric(task: str, plain: bool = False) -> Any:
    def cell(line: Line) -> Cell | str:
        mine = line["by_task"].get(task)
        if mine is None:
            return Cell()
        scale = display_scale(line["results"], task)
        made: Cell = (
            value("value", scale=scale) if plain else interval("value", "low", "high", scale=scale)
        )(mine)
        return made

    return cell


def _label(row: ArmRow, axis: str) -> str:
    """An arm without what is swept: the points of a curve share its label."""
    name = axis.removeprefix("selector.options.")
    options = json.loads(row.options)
    rest = [
        str(shown) if isinstance(shown, str) else f"{key}={shown}"
        for key, shown in options.items()
        if key != name
    ]
    budget = "" if row.budget is None or axis == "budget" else f"@{row.budget}"
    selector = "" if axis == "selector" else row.selector
    return " ".join(filter(None, (selector, *rest, budget)))


def _short(key: str) -> str:
    return key.removeprefix("selector.options.").removeprefix("selector.")


def _number(shown: str) -> float:
    """A value as a number; nan for text.

    >>> _number("11.1%"), _number("multiply")
    (11.1, nan)
    """
    try:
        return float(shown.strip("'\"").removesuffix("%"))
    except ValueError:
        return math.nan

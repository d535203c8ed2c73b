"""Tables of `compare`: differences between two arms by task, and the questions that changed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from zoo_exp.report.mask_items import answer_text
from zoo_exp.report.run_document import plain_rows
from zoo_exp.report.tables_focus import short_text
from zoo_exp.report.tables_statistics import plain_lines
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
    p_value,
    text,
    value,
)
from zoo_exp.statistics.compare_runs import Comparison
from zoo_exp.statistics.intervals import holm
from zoo_exp.statistics.paired import RETAINED as RETAINED_LINE
from zoo_exp.statistics.paired import Paired

CAPTION = (
    "Differences A - B with 95 % intervals (paired bootstrap over images, {draws} resamples); bold: the interval "
    "excludes 0 and p < 0.05. p: exact sign test over the units in A : B, the numbers of units on which A and B score "
    "higher. p values are not corrected for the number of lines. same score, same response: share of questions on "
    "which both agree. average: mean score of the questions, mean over tasks. Numbers in percent and percentage points."
)
OVERVIEW = "Bold: the 95 % interval excludes 0 and p is below 0.05 after Holm's correction for all lines of this table."
RETAINED = (
    " average retained: main metric in percent of that of the full model of the same run, mean over tasks."
)
CHANGED = (
    "Questions on which the scores of A and B differ: {shown} of {total}, the largest difference first, equal ones in "
    "random order (seed 0)."
)


def paired_tables(found: Comparison, changed: int = 0) -> list[Table]:
    """An overview of several pairs, the differences of each pair by task, and the questions that changed.

    Args:
        found: the comparison.
        changed: largest number of questions for each pair.
    """
    tables = [overview(found)] if len(found.pairs) > 1 else []
    for number, pair in enumerate(found.pairs, start=1):
        name = f"_{number}" if len(found.pairs) > 1 else ""
        caption = CAPTION.format(draws=pair.draws) if number == len(found.pairs) else ""
        tables.append(_differences(pair, f"differences{name}", caption))
        if changed:
            tables.append(changed_table(pair, changed, f"changed{name}"))
    shown = [table for table in tables if table.rows]
    notes = tuple(f"{note.rstrip('.')}." for note in all_notes(found))
    place = next(n for n, table in reversed(list(enumerate(shown))) if table.name.startswith("differences"))
    shown[place] = replace(shown[place], notes=(*shown[place].notes, *notes))
    return shown


def overview(found: Comparison) -> Table:
    """One line per pair: the average over tasks, or the only task."""
    lines: list[dict[str, Any]] = []
    for pair in found.pairs:
        whole = plain_lines(pair.frame)[-1]
        lines.append({**whole, "a": pair.first, "b": pair.second})
    adjusted = holm([line["p_value"] if known(line["p_value"]) else 1.0 for line in lines])
    for line, p_holm in zip(lines, adjusted, strict=True):
        line["p_holm"] = p_holm
        line["bold"] = line["significant"] and p_holm < 0.05
    one_first = len({line["a"] for line in lines}) == 1
    columns = [
        *([] if one_first else [Column("arm A", text("a"), left=True)]),
        Column("arm B", text("b"), left=True),
        Column("A", value("first"), level=USUALLY),
        Column("B", value("second"), level=USUALLY),
        Column("A - B", interval("difference", "low", "high", bold="bold", difference=True)),
        Column("A : B", _higher, level=WIDE),
        Column("p", p_value("p_value"), level=WIDE),
        Column("p (Holm)", p_value("p_holm")),
        Column("same score", value("same_score", scale=100), unit="%", level=WIDE),
    ]
    tasks = dict.fromkeys(str(line["task"]) for line in lines)
    title = f"Paired differences, {_and(list(tasks))}" + (f". A: {lines[0]['a']}" if one_first else "")
    return build("overview", title, columns, lines, caption=OVERVIEW)


def _differences(pair: Paired, name: str, caption: str) -> Table:
    lines = [{**line, "unit_text": _unit(line)} for line in plain_lines(pair.frame)]
    columns = [
        Column("task", text("task"), left=True),
        Column("n", value("n", 0), level=USUALLY),
        Column("A", value("first")),
        Column("B", value("second")),
        Column("A - B", interval("difference", "low", "high", bold="significant", difference=True)),
        Column("unit", text("unit_text"), left=True, level=WIDE),
        Column("detectable", value("detectable"), level=WIDE),
        Column("A : B", _higher),
        Column("p", p_value("p_value")),
        Column("same score", value("same_score", scale=100), unit="%", level=USUALLY),
        Column("same response", value("same_response", scale=100), unit="%", level=WIDE),
    ]
    if caption and RETAINED_LINE in set(pair.frame["task"]):
        caption += RETAINED
    points = sorted({str(line["task"]) for line in lines if line["unit"] != "%"})
    notes = [f"{_and(points)}: in points, the others in percent."] if points else []
    return build(name, f"A: {pair.first}; B: {pair.second}", columns, lines, caption=caption, notes=notes)


def all_notes(found: Comparison) -> list[str]:
    """Notes of the runs, then those of the pairs, each once."""
    return list(dict.fromkeys([*found.notes, *(note for pair in found.pairs for note in pair.notes)]))


def changed_table(pair: Paired, most: int, name: str = "changed") -> Table:
    """The first questions that changed, with both responses."""
    lines = [
        {
            **line,
            "asked": short_text(line["question"]),
            "answer": short_text(answer_text(line["reference"])),
        }
        for line in plain_lines(pair.changes.frame(most))
    ]
    columns = [
        Column("task", text("task"), left=True),
        Column("id", text("sample_id"), left=True),
        Column("question", text("asked"), left=True),
        Column("answer", text("answer"), left=True),
        Column("A", _said("first"), left=True),
        Column("B", _said("second"), left=True),
    ]
    title = f"Questions that changed. A: {pair.first}; B: {pair.second}"
    caption = CHANGED.format(shown=len(lines), total=len(pair.changes))
    return build(name, title, columns, lines, caption=caption)


def document(found: Comparison, changed: int) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "runs": [
            {"experiment": run.name, "id": run.experiment.get("id"), "model": run.model.get("name")}
            for run in found.runs
        ],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "draws": pair.draws,
                "rows": plain_rows(pair.frame),
                "changed_total": len(pair.changes),
                "changed": plain_rows(pair.changes.frame(changed)),
                "notes": pair.notes,
            }
            for pair in found.pairs
        ],
        "notes": found.notes,
    }


def flat(found: Comparison) -> pd.DataFrame:
    """The lines of all pairs in one frame, for CSV."""
    parts = [pair.frame.assign(arm=pair.first, against=pair.second) for pair in found.pairs]
    table = pd.concat(parts, ignore_index=True)
    return table[["arm", "against", *(name for name in table if name not in ("arm", "against"))]]


def _unit(line: Line) -> str:
    return f"{line['metric']} ({line['unit']})"


def _higher(line: Line) -> str:
    if not known(line["first_higher"]):
        return "-"
    return f"{line['first_higher']:.0f} : {line['second_higher']:.0f}"


def _said(side: str) -> Any:
    def cell(line: Line) -> Cell:
        mark = "✓" if line[f"{side}_score"] >= 0.5 else "✗"
        return Cell(
            f"{mark} {short_text(line[f'{side}_response']) or '(empty)'}", float(line[f"{side}_score"])
        )

    return cell


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

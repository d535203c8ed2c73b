"""What a run's results are written as: results.csv, results.json, Markdown, LaTeX, and the printed table."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from zoo_exp.files import csv_cell, write_text
from zoo_exp.report.headline import headline
from zoo_exp.report.renderers import escape_latex, escape_markdown, latex, markdown, print_table
from zoo_exp.report.tables import main_table, run_tables
from zoo_exp.report.tables_statistics import facts_table, published_table
from zoo_exp.report.tabular import USUALLY
from zoo_exp.statistics.results import Results


def markdown_document(results: Results, masks: str | None = None, level: int = 1) -> str:
    """Headline, every table, notes and provenance.

    Args:
        results: of one run.
        masks: file name of the mask gallery beside the document.
        level: of the top heading.
    """
    below = "#" * (level + 1)
    first, *rest = run_tables(results)
    parts = [f"{'#' * level} {escape_markdown(results.experiment)}"]
    found = headline(results)
    parts += [escape_markdown(" ".join(found.sentences()))] if found is not None else []
    parts.append(markdown(first, heading=""))
    if results.notes:
        parts.append("\n".join(f"* Note: {escape_markdown(note)}." for note in results.notes))
    parts += [f"![Kept visual tokens by arm]({masks})"] if masks else []
    parts += [markdown(table, below) for table in rest]
    facts = {key: value for key, value in results.provenance.items() if isinstance(value, (str, int, float))}
    parts += [markdown(facts_table("provenance", "Provenance", facts), below)] if facts else []
    return "\n\n".join(parts) + "\n"


def latex_document(results: Results, model: str = "") -> str:
    """Every table of a run as a floating LaTeX table; the run's notes stand above them as comments.

    Args:
        results: of one run.
        model: named in the captions.
    """
    context = f"{results.experiment}{f' on {model}' if model else ''}: "
    wanted = [table for table in run_tables(results) if len(table.up_to(USUALLY).columns) > 1]
    tables = [latex(table, f"{results.experiment}-{table.name}", context) for table in wanted]
    head = [f"% {escape_latex(results.experiment)}: needs \\usepackage{{booktabs}}"]
    head += [f"% Note: {escape_latex(' '.join(note.split()))}." for note in results.notes]
    return "\n".join([*head, "", *tables])


def show(results: Results, console: Console) -> None:
    """Print the main table, how it was computed, and published numbers where there are some."""
    console.print()
    print_table(main_table(results), console, title=results.experiment)
    for note in results.notes:
        console.print(Text(f"Note: {note}.", style="yellow"))
    if len(results.published):
        console.print()
        print_table(published_table(results), console)


def write_csv(results: Results, path: Path) -> None:
    """The whole frame, one line per arm and task; numbers with 6 significant digits, unknown ones empty.

    Rows with a published counterpart go into a file of their own beside it, so that no row of ours is a paper's.
    """
    write_text(path, csv_of(results.frame))
    beside = path.with_name(f"{path.stem}_published.csv")
    if len(results.published):
        write_text(beside, csv_of(results.published))
    else:
        beside.unlink(missing_ok=True)


def csv_of(frame: pd.DataFrame) -> str:
    """A frame as CSV: 6 significant digits, unknown numbers empty, no text that a spreadsheet would run."""
    return str(frame.map(csv_cell).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_json(results: Results, path: Path) -> None:
    """Everything that a later report needs, as strict JSON (unknown numbers are null)."""
    document = {
        "experiment": results.experiment,
        "method": {"draws": results.draws, "seed": results.seed, "confidence": 0.95},
        "tasks": results.tasks,
        "rows": plain_rows(results.frame),
        "claims": plain_rows(results.claims),
        "comparisons": plain_rows(results.comparisons),
        "equal_flops": plain_rows(results.equal_flops),
        "contribution": plain_rows(results.contribution),
        "difficulty": plain_rows(results.difficulty),
        "details": plain_rows(results.details),
        "unreadable": plain_rows(results.unreadable),
        "published": plain_rows(results.published),
        "notes": results.notes,
        "provenance": results.provenance,
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON values: options as objects, nan as None."""
    rows = []
    for row in frame.astype(object).to_dict("records"):
        plain: dict[str, Any] = {}
        for key, value in row.items():
            native = value.item() if hasattr(value, "item") else value
            if isinstance(native, float):
                native = float(f"{native:.10g}") if math.isfinite(native) else None
            elif native is pd.NA or native is pd.NaT:
                native = None
            plain[str(key)] = json.loads(native) if key == "options" else native
        rows.append(plain)
    return rows

"""`python -m zoo_exp report`: read run folders; write a page, Markdown, LaTeX, CSV and figures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from zoo_exp import sharing
from zoo_exp.errors import UnknownNameError
from zoo_exp.files import naming, write_text
from zoo_exp.report.drawing import drawers
from zoo_exp.report.html_page import render_page
from zoo_exp.report.renderers import csv_text, escape_markdown, latex, markdown, print_table
from zoo_exp.report.run_document import csv_of, latex_document, markdown_document, write_csv
from zoo_exp.report.section import Section, make_section, slugs
from zoo_exp.report.side_by_side import side_by_side
from zoo_exp.report.tables_focus import focus_table
from zoo_exp.report.tabular import Table
from zoo_exp.runs import folder as run_folder
from zoo_exp.runs.load import Run, check_together, find_runs, load_run
from zoo_exp.runs.titles import titles
from zoo_exp.statistics.arm_rows import group
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.focus import focus_rows

PAGE = "index.html"
FIGURES, TABLES = "figures", "tables"
T = TypeVar("T")


def build(
    paths: Sequence[Path],
    out: Path | None = None,
    mixed: bool = False,
    draws: int = DRAWS,
    processes: int = 0,
    console: Console | None = None,
    focus: str | None = None,
    tables: Console | None = None,
) -> Path:
    """Write a report on some runs.

    Args:
        paths: run folders, or folders above them (the newest run of each experiment there).
        out: folder of the report; by default `report` inside the run folder for one run, `./report` for several.
        mixed: allow runs whose model settings or data differ, and mark them.
        draws: bootstrap resamples.
        processes: worker processes that draw figures (see `drawing.drawers`); 0 draws in this process.
        console: shows progress, if it is a terminal.
        focus: the arm that the report is about: its comparisons, successes and failures.
        tables: prints the table against `focus`, and that of several runs side by side.

    Returns:
        The page.

    Raises:
        ZooExpError: no records, a damaged file, a run of a newer version, or runs that cannot be combined.
    """
    folders = find_runs(paths)
    with drawers(processes) as executor, _progress(console, len(folders)) as step:
        runs = [step(folder.parent.name, load_run(folder)) for folder in folders]
        warnings = [sharing.text(warning) for warning in check_together(runs, mixed)]
        folder = (
            Path(out)
            if out is not None
            else run_folder.report(runs[0].folder)
            if len(runs) == 1
            else Path("report")
        )
        _check_focus(runs, focus)
        sections = [
            step(
                run.name,
                make_section(
                    run, slug, folder / FIGURES, draws, executor, title, focus if _has(run, focus) else None
                ),
            )
            for run, slug, title in zip(runs, slugs(runs), titles(runs), strict=True)
        ]
        for section in sections:
            step(f"{section.run.name}: figures", section.figures)
    title = f"zoo_exp: {runs[0].name}" if len(runs) == 1 else f"zoo_exp: {len(runs)} experiments"
    with naming(folder):
        above = side_by_side(runs, [section.results for section in sections]) if len(sections) > 1 else None
        if above is not None:
            write_text(folder / TABLES / f"{above.name}.csv", csv_text(above))
            write_text(folder / f"{above.name}.tex", latex(above, above.name))
        for section in sections:
            if section.results.focus:
                write_text(folder / TABLES / f"{section.slug}_outcomes.csv", csv_of(section.results.outcomes))
            write_csv(section.results, folder / f"{section.slug}.csv")
            tex = latex_document(section.results, str(section.run.model.get("name")))
            write_text(folder / f"{section.slug}.tex", tex)
            for table in section.tables:
                write_text(folder / TABLES / f"{section.slug}_{table.name}.csv", csv_text(table))
        write_text(folder / "report.md", _markdown(title, sections, warnings, above))
        write_text(folder / PAGE, render_page(title, sections, warnings))
    if tables is not None:
        shown = [above] if above is not None else []
        shown += [focus_table(section.results) for section in sections if section.results.focus]
        for table in (table for table in shown if table.rows):
            print_table(table, tables)
            tables.print()
    return folder / PAGE


@contextmanager
def _progress(console: Console | None, runs: int) -> Iterator[Callable[[str, T], T]]:
    """A progress bar with three steps per run; yields a function that counts one step and returns its value."""
    bar = Progress(
        TextColumn("report"),
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=3 * runs)

        def step(name: str, result: T) -> T:
            bar.update(task, advance=1, description=name)
            return result

        yield step


def _has(run: Run, focus: str | None) -> bool:
    try:
        return focus is not None and bool(focus_rows(group(run.experiment["arms"]), focus))
    except UnknownNameError:
        return False


def _check_focus(runs: Sequence[Run], focus: str | None) -> None:
    """Refuse a name that no run has; runs without the arm are reported without it."""
    if focus is not None and not any(_has(run, focus) for run in runs):
        focus_rows([row for run in runs for row in group(run.experiment["arms"])], focus)


def _markdown(
    title: str, sections: Sequence[Section], warnings: Sequence[str], above: Table | None = None
) -> str:
    parts = [f"# {escape_markdown(title)}", *(f"> {escape_markdown(text)}" for text in warnings)]
    parts += [markdown(above)] if above is not None else []
    for section in sections:
        named = replace(section.results, experiment=section.title)
        parts.append(markdown_document(named, level=2).rstrip("\n"))
        # Tables that the run folder's own document lacks: the paper's averages and the token analysis.
        parts += [markdown(table, "###") for table in section.tables if table.name in ("paper", "tokens")]
        parts += [f"![{escape_markdown(f.caption)}]({FIGURES}/{f.path.name}.svg)" for f in section.figures]
    return "\n\n".join(parts) + "\n"

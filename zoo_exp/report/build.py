"""`python -m zoo_exp report`: read run folders; write a page, Markdown, LaTeX, CSV and figures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from zoo_exp import sharing
from zoo_exp.files import naming, write_text
from zoo_exp.report.drawing import drawers
from zoo_exp.report.html_page import render_page
from zoo_exp.report.renderers import csv_text, escape_markdown, markdown
from zoo_exp.report.run_document import latex_document, markdown_document, write_csv
from zoo_exp.report.section import Section, make_section, slugs
from zoo_exp.runs import folder as run_folder
from zoo_exp.runs.load import check_together, find_runs, load_run
from zoo_exp.runs.titles import titles
from zoo_exp.statistics.bootstrap import DRAWS

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
) -> Path:
    """Write a report on some runs.

    Args:
        paths: run folders, or folders above them (the newest run of each experiment there).
        out: folder of the report; by default `report` inside the run folder for one run, `./report` for several.
        mixed: allow runs whose model settings or data differ, and mark them.
        draws: bootstrap resamples.
        processes: worker processes that draw figures (see `drawing.drawers`); 0 draws in this process.
        console: shows progress, if it is a terminal.

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
        sections = [
            step(run.name, make_section(run, slug, folder / FIGURES, draws, executor, title))
            for run, slug, title in zip(runs, slugs(runs), titles(runs), strict=True)
        ]
        for section in sections:
            step(f"{section.run.name}: figures", section.figures)
    title = f"zoo_exp: {runs[0].name}" if len(runs) == 1 else f"zoo_exp: {len(runs)} experiments"
    with naming(folder):
        for section in sections:
            write_csv(section.results, folder / f"{section.slug}.csv")
            tex = latex_document(section.results, str(section.run.model.get("name")))
            write_text(folder / f"{section.slug}.tex", tex)
            for table in section.tables:
                write_text(folder / TABLES / f"{section.slug}_{table.name}.csv", csv_text(table))
        write_text(folder / "report.md", _markdown(title, sections, warnings))
        write_text(folder / PAGE, render_page(title, sections, warnings))
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


def _markdown(title: str, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    parts = [f"# {escape_markdown(title)}", *(f"> {escape_markdown(text)}" for text in warnings)]
    for section in sections:
        named = replace(section.results, experiment=section.title)
        parts.append(markdown_document(named, level=2).rstrip("\n"))
        # Tables that the run folder's own document lacks: the paper's averages and the token analysis.
        parts += [markdown(table, "###") for table in section.tables if table.name in ("paper", "tokens")]
        parts += [f"![{escape_markdown(f.caption)}]({FIGURES}/{f.path.name}.svg)" for f in section.figures]
    return "\n\n".join(parts) + "\n"

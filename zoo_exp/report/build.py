"""`python -m zoo_exp report`: run folders in, a page, Markdown, LaTeX, csv and figures out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from zoo_exp.files import write_text
from zoo_exp.report import latex, markdown, tables
from zoo_exp.report.drawing import drawers
from zoo_exp.report.html.page import page
from zoo_exp.report.markdown import escape
from zoo_exp.report.naming import slugs, titles
from zoo_exp.report.section import Section, make_section
from zoo_exp.runs import folder as run_folder
from zoo_exp.runs.load import check_together, find_runs, load_run
from zoo_exp.statistics.bootstrap import DRAWS

PAGE = "index.html"
FIGURES = "figures"
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
        out: where it goes; `report` inside the run folder for one run, `report` here for several.
        mixed: report runs together whose model settings or data differ, marked.
        draws: bootstrap draws.
        processes: how many others draw figures meanwhile (see `drawing.drawers`); 0: this one draws.
        console: where progress is shown; nowhere if None or no terminal.

    Returns:
        The page.

    Raises:
        ZooExpError: no records, a damaged file, a run of a newer version, or runs that do not go together.
    """
    folders = find_runs(paths)
    with drawers(processes) as executor, _progress(console, len(folders)) as step:
        runs = [step(folder.parent.name, load_run(folder)) for folder in folders]
        warnings = check_together(runs, mixed)
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
            step(f"{section.run.name}: figures", section.pictures)
    title = f"zoo_exp: {runs[0].name}" if len(runs) == 1 else f"zoo_exp: {len(runs)} experiments"
    for section in sections:
        tables.write_csv(section.results, folder / f"{section.slug}.csv")
        latex.write_latex(section.results, folder / f"{section.slug}.tex", str(section.run.model.get("name")))
    write_text(folder / "report.md", _markdown(title, sections, warnings))
    write_text(folder / PAGE, page(title, sections, warnings))
    return folder / PAGE


@contextmanager
def _progress(console: Console | None, runs: int) -> Iterator[Callable[[str, T], T]]:
    """A bar over reading, computing and drawing each run: a function that counts a step and returns its value."""
    bar = Progress(
        TextColumn("report"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=3 * runs)

        def step(name: str, result: T) -> T:
            bar.update(task, advance=1, description=escape_markup(name))
            return result

        yield step


def _markdown(title: str, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    parts = [f"# {escape(title)}", *(f"> {escape(text)}" for text in warnings)]
    for section in sections:
        # The run's own page, one level down.
        own = markdown.render(replace(section.results, experiment=section.title))
        parts.append("\n".join(f"#{line}" if line.startswith("#") else line for line in own.splitlines()))
        parts += [f"![{escape(p.caption)}]({FIGURES}/{p.path.name}.svg)" for p in section.pictures]
    return "\n\n".join(parts) + "\n"

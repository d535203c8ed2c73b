"""Everything that a report says about one run: its names, tables, figures and examples."""

import re
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from zoo_exp.report import published
from zoo_exp.report.drawing import DrawnFigure, Here, draw_all
from zoo_exp.report.figures_tokens import shares
from zoo_exp.report.mask_items import (
    FAILURES,
    RULE,
    SUCCESSES,
    MaskItem,
    choose,
    failures,
    read_masks,
    successes,
)
from zoo_exp.report.runs import results_of
from zoo_exp.report.tables import run_tables
from zoo_exp.report.tables_statistics import paper_table, token_table
from zoo_exp.report.tabular import Table
from zoo_exp.report.token_rows import averages, read_tokens
from zoo_exp.runs.load import Run
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.focus import Judges, default_focus
from zoo_exp.statistics.results import Results

EACH = 4
"""Successes and failures per task in a gallery of a report that is about one arm."""


@dataclass(frozen=True)
class Examples:
    """Questions of a gallery: heading, the criterion by which they were chosen, and the questions."""

    title: str
    rule: str
    items: list[MaskItem]


@dataclass(frozen=True)
class Section:
    """One run in a report.

    Attributes:
        slug: name for files and anchors.
        title: name for readers, unique in the report.
        run: where it comes from.
        results: numbers and intervals.
        tables: all of its tables.
        rows: the arms, as rows of a table.
        drawing: the figures that apply to this run; a future, as other processes may draw them.
        examples: galleries.
    """

    slug: str
    title: str
    run: Run
    results: Results
    tables: list[Table]
    rows: list[ArmRow]
    drawing: Future[list[DrawnFigure]]
    examples: list[Examples] = field(default_factory=list)

    @property
    def figures(self) -> list[DrawnFigure]:
        """The figures; waits where other processes draw them."""
        return self.drawing.result()


def make_section(
    run: Run,
    slug: str,
    figures: Path,
    draws: int,
    executor: Executor | None = None,
    title: str | None = None,
    focus: str | None = None,
) -> Section:
    """Compute the results of a run and draw the figures that apply to it.

    Args:
        run: the run.
        slug: name for files, unique in the report.
        figures: folder of the figures.
        draws: bootstrap resamples.
        executor: draws the figures (see `drawing.drawers`); this process, if None.
        title: name for readers; the experiment's, if None.
        focus: the arm that the report is about (see `focus.focus_rows`).
    """
    results = results_of(run, draws, focus)
    rows = group(run.experiment["arms"])
    items = read_masks(run.folder)
    tokens = read_tokens(run.folder)
    smallest = [row.names[0] for row in rows if row.budget == _last_budget(rows)]
    kept = {arm: shares(items, arm) for arm in smallest}  # images need not travel to another process
    executor = executor or Here()
    more = [
        paper_table(published.averages(run.name, published.read())),
        token_table(averages(tokens) if len(tokens) else tokens),
    ]
    return Section(
        slug=slug,
        title=title or run.name,
        run=run,
        results=results,
        tables=[*run_tables(results), *(table for table in more if table.rows)],
        rows=rows,
        drawing=executor.submit(draw_all, results.frame, kept, len(items), tokens, figures / slug),
        examples=_examples(items, rows, results.tasks, results.focus),
    )


def _last_budget(rows: list[ArmRow]) -> str | None:
    return next((row.budget for row in reversed(rows) if row.budget is not None), None)


def _examples(items: list[MaskItem], rows: list[ArmRow], tasks: list[str], about: str) -> list[Examples]:
    """The galleries; those of successes and failures show several questions per task if the report is about an arm."""
    if not items:
        return []
    names = [row.names[0] for row in rows]
    found = [Examples("Kept tokens", RULE, choose(items, names, tasks))]
    focus = next((row for row in rows if row.label == about), None) if about else default_focus(rows)
    if focus is not None:
        judges, each = Judges.of(rows, focus), EACH if about else 1
        for name, rule, of in (("Successes", SUCCESSES, successes), ("Failures", FAILURES, failures)):
            told = rule.format(
                arm=focus.row, number="one question" if each == 1 else f"at most {each} questions"
            )
            found.append(Examples(f"{name} of {focus.row}", told, of(items, judges, each)))
    return [one for one in found if one.items]


def slugs(runs: Sequence[Run]) -> list[str]:
    """A short unique name for each run, safe in file names and anchors: its own, with the model, or with its id."""
    own = [_safe(run.name) for run in runs]
    models = [f"{name}-{_safe(str(run.model.get('name')))}" for name, run in zip(own, runs, strict=True)]
    folders = [f"{model}-{_safe(run.folder.name)}" for model, run in zip(models, runs, strict=True)]
    found: list[str] = []
    for number, options in enumerate(zip(own, models, folders, strict=True)):
        counts = (own.count(options[0]), models.count(options[1]), 1)
        name = next(option for option, count in zip(options, counts, strict=True) if count == 1)
        found.append(name if name not in found else f"{name}-{number}")
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "run"

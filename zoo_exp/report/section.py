"""Everything that a report says about one run: tables, pictures, published rows, examples."""

from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from zoo_exp.report import published
from zoo_exp.report.drawing import Here, Picture, draw_all
from zoo_exp.report.figures import positions
from zoo_exp.report.masks import (
    FAILURE,
    RULE,
    SUCCESS,
    MaskItem,
    choose,
    failures,
    focus_arm,
    read_masks,
    successes,
)
from zoo_exp.report.runs import results_of
from zoo_exp.report.token_rows import averages, read_tokens
from zoo_exp.runs.load import Run
from zoo_exp.statistics.contribution import Contribution, contribution
from zoo_exp.statistics.results import Results
from zoo_exp.statistics.rows import ArmRow, group


@dataclass(frozen=True)
class Examples:
    """Questions for a gallery: heading, the rule that chose them, and the questions."""

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
        results: tables and intervals.
        rows: the table's rows.
        joined: rows with a published counterpart (see `published.join`).
        paper: the paper's own averages of the same artefact.
        contribution: what needs the image; None without a blind arm.
        tokens: means of tokens.jsonl by arm; empty where `tokens` was not run.
        drawn: figures that apply to this run, or who is drawing them.
        examples: galleries.
    """

    slug: str
    title: str
    run: Run
    results: Results
    rows: list[ArmRow]
    joined: pd.DataFrame
    paper: pd.DataFrame
    contribution: Contribution | None
    tokens: pd.DataFrame
    drawn: Future[list[Picture]]
    examples: list[Examples] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """The figures; waits for them where other processes draw."""
        return self.drawn.result()


def make_section(
    run: Run, slug: str, figures: Path, draws: int, executor: Executor | None = None, title: str | None = None
) -> Section:
    """Compute a run and draw what applies to it.

    Args:
        run: the run.
        slug: name for files, unique in the report.
        figures: folder that figures are written to.
        draws: bootstrap draws.
        executor: who draws (see `drawing.drawers`); this process, if None.
        title: name for readers; the experiment's, if None.
    """
    results = results_of(run, draws)
    rows = group(run.experiment["arms"])
    items = read_masks(run.folder)
    tokens = read_tokens(run.folder)
    smallest = [row.names[0] for row in rows if row.budget == _last_budget(rows)]
    kept = {arm: positions.shares(items, arm) for arm in smallest}  # pictures need not travel to who draws
    executor = executor or Here()
    return Section(
        slug=slug,
        title=title or run.name,
        run=run,
        results=results,
        rows=rows,
        joined=results.published,
        paper=published.averages(run.name, published.read()),
        contribution=contribution(results.frame, results.contribution),
        tokens=averages(tokens) if len(tokens) else tokens,
        drawn=executor.submit(draw_all, results.frame, kept, len(items), tokens, figures / slug),
        examples=_examples(items, rows, results.tasks),
    )


def _last_budget(rows: list[ArmRow]) -> str | None:
    return next((row.budget for row in reversed(rows) if row.budget is not None), None)


def _examples(items: list[MaskItem], rows: list[ArmRow], tasks: list[str]) -> list[Examples]:
    if not items:
        return []
    names = [row.names[0] for row in rows]
    found = [Examples("Kept tokens", RULE, choose(items, names, tasks))]
    focus = focus_arm(rows)
    if focus is not None:
        label = focus.names[0]
        for title, rule, chosen in (
            ("Successes", SUCCESS, successes(items, rows, focus)),
            ("Failures", FAILURE, failures(items, rows, focus)),
        ):
            if chosen:
                found.append(Examples(title, rule.format(arm=label), chosen))
    return [one for one in found if one.items]

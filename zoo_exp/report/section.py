"""Everything that a report says about one run: tables, pictures, published rows, examples."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from zoo_exp.report import published
from zoo_exp.report.arms import ArmRow, group
from zoo_exp.report.contribution import Contribution, contribution
from zoo_exp.report.examples import FAILURE, SUCCESS, failures, focus_arm, successes
from zoo_exp.report.figures import budget, cost, heat, kde, layers, positions, rank
from zoo_exp.report.mask_items import RULE, choose, read_masks
from zoo_exp.report.masks import MaskItem
from zoo_exp.report.results import Results
from zoo_exp.report.runs import Run
from zoo_exp.report.token_rows import averages, read_tokens


@dataclass(frozen=True)
class Picture:
    """A figure: the common name of its .svg and .png files, and what it shows."""

    path: Path
    caption: str


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
        run: where it comes from.
        results: tables and intervals.
        rows: the table's rows.
        joined: rows with a published counterpart (see `published.join`).
        paper: the paper's own averages of the same artefact.
        contribution: what needs the image; None without a blind arm.
        tokens: means of tokens.jsonl by arm; empty where `tokens` was not run.
        pictures: figures that apply to this run.
        examples: galleries.
    """

    slug: str
    run: Run
    results: Results
    rows: list[ArmRow]
    joined: pd.DataFrame
    paper: pd.DataFrame
    contribution: Contribution | None
    tokens: pd.DataFrame
    pictures: list[Picture] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)


def make_section(run: Run, slug: str, figures: Path, draws: int) -> Section:
    """Compute a run and draw what applies to it.

    Args:
        run: the run.
        slug: name for files, unique in the report.
        figures: folder that figures are written to.
        draws: bootstrap draws.
    """
    results = run.results(draws)
    rows = group(run.experiment["arms"])
    items = read_masks(run.folder)
    tokens = read_tokens(run.folder)
    papers = published.read()
    return Section(
        slug=slug,
        run=run,
        results=results,
        rows=rows,
        joined=published.join(results.frame, str(run.model.get("name")), papers),
        paper=published.averages(run.name, papers),
        contribution=contribution(results.frame, results.contribution),
        tokens=averages(tokens) if len(tokens) else tokens,
        pictures=_pictures(results, rows, items, tokens, figures, slug),
        examples=_examples(items, rows, results.tasks),
    )


def slugs(runs: list[Run]) -> list[str]:
    """A short unique name for each run, safe in file names and anchors."""
    plain = [re.sub(r"[^A-Za-z0-9_-]+", "-", run.name).strip("-") or "run" for run in runs]
    found: list[str] = []
    for name, run in zip(plain, runs, strict=True):
        model = re.sub(r"[^A-Za-z0-9_-]+", "-", str(run.model.get("name")))
        for option in (name, f"{name}-{model}"):
            if plain.count(name) == 1 or (option != name and option not in found):
                found.append(option)
                break
        else:
            found.append(f"{name}-{model}-{len(found)}")
    return found


def _pictures(
    results: Results,
    rows: list[ArmRow],
    items: list[MaskItem],
    tokens: pd.DataFrame,
    figures: Path,
    slug: str,
) -> list[Picture]:
    frame = results.frame
    smallest = [row.names[0] for row in rows if row.budget == _last_budget(rows)]
    drawn: list[tuple[str, str, Callable[[Path], bool]]] = [
        (
            "budget",
            "Retained average by budget, with 95 % intervals (paired bootstrap over images).",
            lambda path: budget.draw(frame, path),
        ),
        (
            "cost",
            "Retained average against what an answer costs. Times: this machine, median over batches, per question.",
            lambda path: cost.draw(frame, path),
        ),
        ("heat", "Retained average by directions m and step size h.", lambda path: heat.draw(frame, path)),
        (
            "layers",
            "Where sensitivity is measured: encoder layers and projector.",
            lambda p: layers.draw(frame, p),
        ),
        (
            "ranks",
            "Rank correlation with the reference arm, over the tokens that it rates above the threshold of 0.5; "
            "vertical lines are means.",
            lambda path: kde.draw(tokens, path),
        ),
        ("ranks_all", "The same over all tokens.", lambda path: kde.draw(tokens, path, "spearman")),
        ("span", "Effective rank of what is kept, by budget (colour).", lambda path: rank.draw(tokens, path)),
        (
            "positions",
            "Where tokens are kept at the smallest budget; the numbers are the shares of the upper, middle and lower "
            "third of the image. A rule without position bias is even over many images.",
            lambda path: positions.draw(items, smallest, path),
        ),
    ]
    found = []
    for name, caption, draw in drawn:
        path = figures / f"{slug}_{name}"
        if draw(path):
            found.append(Picture(path, caption))
    return found


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

"""Write the results of a run folder: results.csv, results.json, results.md, mask galleries, and the printed table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from zoo_exp import sharing
from zoo_exp.files import write_text
from zoo_exp.report.gallery import draw_gallery
from zoo_exp.report.mask_items import RULE, choose, read_masks
from zoo_exp.report.published import beside
from zoo_exp.report.run_document import markdown_document, show, write_csv, write_json
from zoo_exp.runs import folder
from zoo_exp.runs.provenance import versions
from zoo_exp.runs.reading import read_timings
from zoo_exp.runs.run_answers import read_answers
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.results import Results, compute
from zoo_exp.tasks.base import Task


def write(
    run_dir: Path,
    experiment_name: str,
    tasks: Sequence[Task],
    arms: Sequence[Mapping[str, Any]],
    console: Console | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Results:
    """Compute everything from the records of `run_dir`, write it there, and print the table.

    Args:
        run_dir: holds records.jsonl, and timings.jsonl and masks.jsonl where the run made them.
        experiment_name: heading of the tables.
        tasks: order of the columns.
        arms: order of the rows; mappings with `arm`, `arm_id`, `selector`, `options`, `budget`, `seed`.
        console: where the table is printed; None prints nothing.
        draws: bootstrap draws.
        seed: seed of the draws.
        config: the experiment's resolved configuration, which says what published numbers may stand beside ours;
            none do without it.

    Raises:
        MissingFileError: no records, a damaged file, or a folder that cannot be written to.
    """
    run_dir = Path(run_dir)
    answers = read_answers(run_dir, {str(arm["arm_id"]) for arm in arms})
    timings = read_timings(run_dir)
    claims, limit = (config or {}).get("claims", ()), (config or {}).get("limit")
    results = compute(experiment_name, answers, timings, tasks, arms, draws, seed, claims, limit)
    joined, left_out = beside(results.frame, config or {})
    notes = [sharing.text(note, config) for note in (*results.notes, *left_out)]
    results = replace(results, provenance=versions(), published=joined, notes=notes)
    write_csv(results, folder.results(run_dir, ".csv"))
    write_json(results, folder.results(run_dir, ".json"))
    rows = group(list(arms) or answers.arms)
    galleries = write_galleries(run_dir, rows, results.tasks)
    document = markdown_document(results, galleries[0].name if galleries else None)
    write_text(folder.results(run_dir, ".md"), document)
    if console is not None:
        show(results, console)
    return results


def write_galleries(run_dir: Path, rows: Sequence[ArmRow], tasks: Sequence[str]) -> list[Path]:
    """masks.png for the smallest budget, where arms differ most, and masks_BUDGET.png for each other one.

    Columns: `full`, then the arms of the budget (of a random selector the first seed).
    """
    items = read_masks(run_dir)
    if not items:
        return []
    kept = {arm.arm: len(arm.indices) for item in items for arm in item.arms}
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))
    sizes = {b: min(kept.get(r.names[0], 10**9) for r in rows if r.budget == b) for b in budgets}
    written = []
    full = [row.names[0] for row in rows if row.selector == "full"]
    by_size: list[str | None] = [*sorted(budgets, key=sizes.__getitem__)]
    for place, budget in enumerate(by_size or [None]):
        names = full + [row.names[0] for row in rows if row.budget == budget and row.names[0] not in full]
        chosen = choose(items, names, tasks)
        if not chosen:
            continue
        path = folder.gallery(run_dir, None if place == 0 else str(budget))
        draw_gallery(chosen, path, f"Outlined: kept visual tokens (count in the corner). {RULE}")
        written.append(path)
    return written

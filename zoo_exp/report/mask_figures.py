"""Figures of the masks of chosen questions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.report.gallery import draw_gallery
from zoo_exp.report.mask_items import MaskItem, read_masks
from zoo_exp.runs import manifest
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.compare_runs import find_row

CAPTION = "Outlined: kept visual tokens (count in the corner). For layer selectors, those that reach the last layer."


def draw_questions(
    run: Path, wanted: Mapping[str, Sequence[str]], arms: Sequence[str] | None, path: Path
) -> int:
    """Draw some questions of a run as one figure, an arm per column; returns their number.

    Args:
        run: the run folder.
        wanted: task -> ids of questions, from top to bottom.
        arms: labels as in tables; None shows `full` and the arms of the smallest budget.
        path: the PNG.

    Raises:
        UnknownNameError: an arm that the run does not have.
        InvalidValueError: none of the questions has a mask.
    """
    rows = group(manifest.read(run)["experiment"]["arms"])
    names = [row.names[0] for row in (_smallest(rows) if arms is None else [_row(rows, arm) for arm in arms])]
    items = {(item.task, item.sample_id): item for item in read_masks(run, list(wanted))}
    shown: list[MaskItem] = []
    for task, samples in wanted.items():
        for item in (items[task, sample] for sample in samples if (task, sample) in items):
            by_name = {arm.arm: arm for arm in item.arms}
            chosen = tuple(by_name[name] for name in names if name in by_name)
            shown += [replace(item, arms=chosen)] if chosen else []
    if not shown:
        named = ", ".join(sample for samples in wanted.values() for sample in samples[:3])
        raise InvalidValueError(f"no masks of {named}: only questions about one image have masks")
    # The arms of the first item name the columns.
    draw_gallery(sorted(shown, key=lambda item: -len(item.arms)), path, CAPTION)
    return len(shown)


def _row(rows: Sequence[ArmRow], name: str) -> ArmRow:
    row = find_row(rows, name)
    if row is None:
        raise UnknownNameError("arm of this run", name, [row.row for row in rows])
    return row


def _smallest(rows: Sequence[ArmRow]) -> list[ArmRow]:
    last = next((row.budget for row in reversed(rows) if row.budget is not None), None)
    return [row for row in rows if row.selector == "full" or (row.budget == last and row.selector != "blind")]

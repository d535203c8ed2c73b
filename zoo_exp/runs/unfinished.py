"""What a run has not answered yet, by what its cells expect."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd


def unfinished(folder: Path, records: pd.DataFrame, cells: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One note for each task that lacks answers of an arm, or of all arms alike, as after a run that was cut off.

    Args:
        folder: the run folder; `cells/TASK.json` says how many questions there are.
        records: from `records.read_records`.
        cells: task -> cell ids of its records.
    """
    counts = records.groupby(["task", "arm_id"]).size().unstack(fill_value=0)
    notes = []
    for name, row in counts.iterrows():
        task, low, high = str(name), int(row.min()), int(row.max())
        total = _expected(folder, task, cells.get(task, ()))
        whole = f" of {total}" if total is not None and total > low else ""
        if low < high:
            answered = f"between {low} and {high}{whole} questions answered, by arm"
        elif whole:
            answered = f"{low}{whole} questions answered"
        else:
            continue
        notes.append(f"{task}: unfinished, {answered}; the same run command goes on from there")
    return notes


def _expected(folder: Path, task: str, cells: tuple[str, ...]) -> int | None:
    """How many questions the task has under the cell of its records; None where nobody has counted them."""
    try:
        content = json.loads((folder / "cells" / f"{task}.json").read_text(encoding="utf-8"))
        return int(content["samples"]) if content["cell"] in cells else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

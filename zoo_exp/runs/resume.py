"""Records that sibling folders have already: other runs of the same experiment.

A record belongs to its cell and its arm, so a run with one more arm or another limit takes over what its
siblings have, and computes the rest.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.runs import journal, lock
from zoo_exp.runs.cells import Answered
from zoo_exp.runs.merge import replaced


def adopt(
    folder: Path, cells: Sequence[Cell], wanted: Mapping[str, Collection[str]], have: Answered
) -> dict[str, int]:
    """Copy records that sibling folders have and this one lacks.

    Args:
        folder: the run folder; its siblings are other runs of the same experiment.
        cells: the run's cells.
        wanted: cell id -> ids of the samples that the run asks.
        have: what is recorded here; takes up what is copied.

    Returns:
        Name of the sibling folder -> number of records taken from it.
    """
    labels = {(cell.id, arm.id): arm.label for cell in cells for arm in cell.arms}
    taken: dict[str, int] = {}
    for sibling in sorted(path for path in folder.parent.iterdir() if path.is_dir() and path != folder):
        rows: dict[str, list[journal.Row]] = {cell.id: [] for cell in cells}
        for row in _rows(sibling, "records", rows):
            key = (row.get("cell"), row.get("arm_id"))
            if key not in labels or row.get("sample_id") not in wanted[key[0]]:
                continue
            done = have[key[0]][key[1]]
            if row["sample_id"] not in done:
                done.add(row["sample_id"])
                rows[key[0]].append({**row, "arm": labels[key]})
        for cell, mine in rows.items():
            with journal.Journal(folder, "records", cell) as records:
                records.append(mine)
        count = sum(map(len, rows.values()))
        if count:
            keys = {(r["task"], r["sample_id"], r["arm"]) for mine in rows.values() for r in mine}
            _adopt_masks(folder, sibling, {cell.task: cell.id for cell in cells}, keys)
            taken[sibling.name] = count
    return taken


def _rows(sibling: Path, kind: str, cells: Collection[str]) -> list[journal.Row]:
    """Rows of another run; what is damaged there is that run's business."""
    unread: list[str] = []
    paths = [*journal.journals(sibling, kind, cells), journal.merged_file(sibling, kind)]
    return [line.row for path in paths for line in journal.lines(path, unread)]


def _adopt_masks(folder: Path, sibling: Path, cells: dict[str, str], keys: set[tuple[str, str, str]]) -> None:
    """Copy the masks of adopted records, and their pictures."""
    rows: dict[str, list[journal.Row]] = {}
    for row in _rows(sibling, "masks", cells.values()):
        arms = [arm for arm in row["arms"] if (row["task"], row["sample_id"], arm["arm"]) in keys]
        source = sibling / row["image"]
        if arms and source.is_file():
            target = folder / row["image"]
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced(target) as file:
                file.write(source.read_bytes())
            rows.setdefault(cells[row["task"]], []).append({**row, "arms": arms})
    for cell, mine in rows.items():
        with journal.Journal(folder, "masks", cell) as masks:
            masks.append(mine)


def merge_masks(folder: Path) -> None:
    """One row per question: arms that were run later join the row that is there."""
    with lock.waiting(folder, "merge"):
        sources = journal.journals(folder, "masks")
        if not sources:
            return
        merged: dict[tuple[str, str], dict[str, Any]] = {}
        for path in [journal.merged_file(folder, "masks"), *sources]:
            for line in journal.lines(path):
                row = line.row
                mine = merged.setdefault((row["task"], row["sample_id"]), {**row, "arms": []})
                known = {arm["arm"] for arm in mine["arms"]}
                mine["arms"] += [arm for arm in row["arms"] if arm["arm"] not in known]
        with replaced(journal.merged_file(folder, "masks")) as file:
            file.writelines(journal.encode(merged[key]) for key in sorted(merged))
        for path in sources:
            path.unlink()


def describe(taken: dict[str, int]) -> str:
    """One line about adopted records."""
    return "taken over from earlier runs: " + ", ".join(f"{n} records of {name}" for name, n in taken.items())

"""What is answered already: in this run's folder, and in sibling folders of the same experiment.

A record belongs to its cell and its arm, so a run with one more arm or another limit takes over what its
siblings have, and computes the rest.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.core.errors import ZooExpError
from zoo_exp.evaluation import journal

MANIFEST = "experiment.json"
RECORD_KEY = ("task", "arm", "sample_id")
MASK_KEY = ("task", "sample_id")


def answered(folder: Path) -> dict[str, dict[str, set[str]]]:
    """Cell id -> arm id -> ids of the samples that have a record."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in journal.read(folder, "records"):
        found[row["cell"]][row["arm_id"]].add(row["sample_id"])
    return found


def adopt(folder: Path, cells: Sequence[Cell], wanted: dict[str, Collection[str]]) -> dict[str, int]:
    """Copy records that sibling folders have and this one lacks.

    Args:
        folder: the run folder; its siblings are other runs of the same experiment.
        cells: the run's cells.
        wanted: cell id -> ids of the samples that the run asks.

    Returns:
        Name of the sibling folder -> number of records taken from it.
    """
    labels = {(cell.id, arm.id): arm.label for cell in cells for arm in cell.arms}
    have = {(row["cell"], row["arm_id"], row["sample_id"]) for row in journal.read(folder, "records")}
    taken: dict[str, int] = {}
    for sibling in sorted(path for path in folder.parent.iterdir() if path.is_dir() and path != folder):
        rows = []
        try:
            for row in journal.read(sibling, "records"):
                key = (row["cell"], row["arm_id"], row["sample_id"])
                if key[:2] in labels and key[2] in wanted[key[0]] and key not in have:
                    have.add(key)
                    rows.append({**row, "arm": labels[key[:2]]})
        except (ZooExpError, KeyError, TypeError):
            continue  # a sibling that cannot be read has nothing to give
        if rows:
            with journal.Journal(folder, "records") as records:
                records.append(rows)
            _adopt_masks(folder, sibling, {(r["task"], r["sample_id"], r["arm"]) for r in rows})
            taken[sibling.name] = len(rows)
    return taken


def _adopt_masks(folder: Path, sibling: Path, keys: set[tuple[str, str, str]]) -> None:
    """Copy the masks of adopted records, and their pictures."""
    rows: list[dict[str, Any]] = []
    for row in journal.read(sibling, "masks"):
        arms = [arm for arm in row["arms"] if (row["task"], row["sample_id"], arm["arm"]) in keys]
        source = sibling / row["image"]
        if arms and source.is_file():
            target = folder / row["image"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            rows.append({**row, "arms": arms})
    with journal.Journal(folder, "masks") as masks:
        masks.append(rows)


def merge_masks(folder: Path) -> None:
    """One row per question: arms that were run later join the row that is there."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in journal.read(folder, "masks"):
        key = (row["task"], row["sample_id"])
        mine = merged.setdefault(key, {**row, "arms": []})
        known = {arm["arm"] for arm in mine["arms"]}
        mine["arms"] += [arm for arm in row["arms"] if arm["arm"] not in known]
    for path in folder.glob("masks*.jsonl"):
        path.unlink()
    with journal.Journal(folder, "masks") as masks:
        masks.append(merged[key] for key in sorted(merged))


def describe(taken: dict[str, int]) -> str:
    """One line about adopted records."""
    return "taken over from earlier runs: " + ", ".join(f"{n} records of {name}" for name, n in taken.items())


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """The resolved experiment and the machine, replaced in one step."""
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    temporary.replace(folder / MANIFEST)

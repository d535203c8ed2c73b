"""Records that sibling folders have already: other runs of the same experiment.

A record belongs to its cell and its arm, so a run with one more arm or another limit takes over what its
siblings have, and computes the rest.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from zoo_exp.config.experiment import Cell
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import Row, log, write_bytes
from zoo_exp.runs import folder, manifest, reading
from zoo_exp.runs.cells import Answered
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.records import MaskRow, Record


def adopt(
    run: Path, cells: Sequence[Cell], wanted: Mapping[str, Collection[str]], have: Answered
) -> dict[str, int]:
    """Copy records that sibling folders have and this one lacks, with their masks.

    A sibling that cannot be read, or was written by a newer version, is named and left out.

    Args:
        run: the run folder; its siblings are other runs of the same experiment.
        cells: the run's cells.
        wanted: cell id -> ids of the samples that the run asks.
        have: what is recorded here; takes up what is copied.

    Returns:
        Name of the sibling folder -> number of records taken from it.
    """
    taken: dict[str, int] = {}
    for sibling in sorted(path for path in run.parent.iterdir() if path != run and path.is_dir()):
        try:
            records = _lacking(sibling, cells, wanted, have)
            masks = _masks_of(sibling, records)
        except (MissingFileError, InvalidValueError, OSError) as error:
            log.warning(f"no records are taken from {sibling}: {error}")
            continue
        # Records say what is done: they are written last.
        for cell, rows in masks.items():
            copied = [row.to_row() for row in rows if _copy_image(sibling / row.image, run / row.image)]
            with Journal(run, folder.MASKS, cell) as journal:
                journal.append(copied)
        for cell, found in records.items():
            with Journal(run, folder.RECORDS, cell) as journal:
                journal.append(found)
            for row in found:
                have[cell][row["arm_id"]].add(row["sample_id"])
        count = sum(map(len, records.values()))
        if count:
            taken[sibling.name] = count
    return taken


def _lacking(
    sibling: Path, cells: Sequence[Cell], wanted: Mapping[str, Collection[str]], have: Answered
) -> dict[str, list[Row]]:
    """Cell id -> records of a sibling that are wanted and not here, with the labels that arms have here."""
    arms = {(cell.id, arm.id): arm for cell in cells for arm in cell.arms}
    found: dict[tuple[str, str, str], Row] = {}
    # What is damaged in another run is its own affair.
    for row in reading.records(sibling, [cell.id for cell in cells], damaged=[]):
        key = row["cell"], row["arm_id"], row["sample_id"]
        arm = arms.get(key[:2])
        if arm is not None and key[2] in wanted[key[0]] and key[2] not in have[key[0]][key[1]]:
            found.setdefault(key, Record.from_row(row).to_row() | {"arm": arm.label, "row": arm.row})
    return {cell.id: [row for key, row in found.items() if key[0] == cell.id] for cell in cells}


def _masks_of(sibling: Path, records: Mapping[str, Sequence[Row]]) -> dict[str, list[MaskRow]]:
    """Cell id -> the masks of some records of a sibling whose image can be read."""
    known = manifest.arms(sibling)  # version 1 wrote labels only, which may differ from ours
    places = {(r["task"], r["sample_id"], r["arm_id"]): cell for cell, rows in records.items() for r in rows}
    labels = {row["arm_id"]: row["arm"] for rows in records.values() for row in rows}
    ids = {str(arm["arm"]): str(arm["arm_id"]) for arm in known}
    found: dict[str, list[MaskRow]] = {}
    for row in reading.masks(sibling, damaged=[]):
        arms = [replace(arm, arm_id=arm.arm_id or ids.get(arm.arm, "")) for arm in row.arms]
        mine = [arm for arm in arms if (row.task, row.sample_id, arm.arm_id) in places]
        image = sibling / row.image
        if mine and image.is_file() and folder.inside(sibling, image):
            cell = places[row.task, row.sample_id, mine[0].arm_id]
            named = tuple(replace(arm, arm=labels[arm.arm_id]) for arm in mine)
            found.setdefault(cell, []).append(replace(row, cell=cell, arms=named))
    return found


def _copy_image(source: Path, target: Path) -> bool:
    """Whether the image is here now."""
    if not target.exists():
        try:
            content = source.read_bytes()
        except OSError:
            return False
        write_bytes(target, content)
    return True


def describe(taken: dict[str, int]) -> str:
    """One line about adopted records."""
    return "taken over from earlier runs: " + ", ".join(f"{n} records of {name}" for name, n in taken.items())

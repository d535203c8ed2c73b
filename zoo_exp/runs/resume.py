"""Reuse records from sibling folders, that is, from other runs of the same experiment.

Records are identified by cell and arm. A run with an additional arm or another limit copies the records that its
siblings have already, and computes the rest.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_exp import selectors
from zoo_exp.config.experiment import Arm, Cell
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import Row, log, write_bytes
from zoo_exp.registry import is_ours
from zoo_exp.runs import anew, folder, manifest, reading
from zoo_exp.runs.cells import Answered
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.kept import Kept, KeptRow
from zoo_exp.runs.kept import read as read_kept
from zoo_exp.runs.records import MaskRow, Record
from zoo_exp.wording import counted


def adopt(
    run: Path, cells: Sequence[Cell], wanted: Mapping[str, Collection[str]], have: Answered
) -> dict[str, int]:
    """Copy missing records from sibling folders, with their masks.

    A sibling that cannot be read, or was written by a newer version, is reported and skipped. A run that was started
    anew takes nothing.

    Args:
        run: the run folder; its siblings are other runs of the same experiment.
        cells: the run's cells.
        wanted: cell id -> ids of the samples of the run.
        have: recorded samples of this run; updated with the copied ones.

    Returns:
        Name of the sibling folder -> number of copied records.
    """
    taken: dict[str, int] = {}
    for sibling in [] if anew.is_fresh(run) else _siblings(run):
        try:
            records = _lacking(sibling, cells, wanted, have)
            masks = _masks_of(sibling, records)
            kept = _kept_of(sibling, records)
        except (MissingFileError, InvalidValueError, OSError) as error:
            log.warning(f"no records are reused from {sibling}: {error}")
            continue
        # Records mark what is done, so they are written last.
        for cell, batches in kept.items():
            with Journal(run, folder.KEPT, cell) as journal:
                journal.append(row.to_row() for row in batches)
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


def _siblings(run: Path) -> list[Path]:
    """The other runs of the same experiment, without those that were set aside."""
    found = (path for path in run.parent.iterdir() if path != run and path.is_dir())
    return sorted(path for path in found if not anew.is_aside(path) and not path.name.startswith("."))


def changed_selectors(run: Path, arms: Sequence[Arm]) -> dict[str, str]:
    """Selectors of the user's own whose source has changed since an earlier run.

    Args:
        run: the run folder.
        arms: arms of the run that lack answers.

    Returns:
        Name of the selector -> name of a sibling folder with answers of the earlier source.
    """
    own = [arm for arm in arms if not is_ours(selectors.REGISTRY.load(arm.selector))]
    if not own:
        return {}
    wanted = {_settings(arm.as_dict()): arm for arm in own}
    found: dict[str, str] = {}
    for sibling in [run, *_siblings(run)]:
        for old in manifest.arms(sibling):
            arm = wanted.get(_settings(old))
            if arm is not None and old.get("arm_id") not in ("", None, arm.id):
                found.setdefault(arm.selector, sibling.name)
    return found


def _settings(arm: Mapping[str, Any]) -> str:
    """What of an arm, in the words of a record, stays when the source of its selector changes."""
    return json.dumps([arm.get(name) for name in ("selector", "options", "budget", "seed")], default=str)


def _lacking(
    sibling: Path, cells: Sequence[Cell], wanted: Mapping[str, Collection[str]], have: Answered
) -> dict[str, list[Row]]:
    """Cell id -> wanted records of a sibling that this run lacks, with this run's arm labels."""
    arms = {(cell.id, arm.id): arm for cell in cells for arm in cell.arms}
    found: dict[tuple[str, str, str], Row] = {}
    # Damaged rows of another run are not reported here.
    for row in reading.records(sibling, [cell.id for cell in cells], damaged=[]):
        key = row["cell"], row["arm_id"], row["sample_id"]
        arm = arms.get(key[:2])
        if arm is not None and key[2] in wanted[key[0]] and key[2] not in have[key[0]][key[1]]:
            found.setdefault(key, Record.from_row(row).to_row() | {"arm": arm.label, "row": arm.row})
    return {cell.id: [row for key, row in found.items() if key[0] == cell.id] for cell in cells}


def _masks_of(sibling: Path, records: Mapping[str, Sequence[Row]]) -> dict[str, list[MaskRow]]:
    """Cell id -> masks of the given records of a sibling, where the image file exists."""
    known = manifest.arms(sibling)  # version 1 recorded labels only, which may differ from those of this run
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


def _kept_of(sibling: Path, records: Mapping[str, Sequence[Row]]) -> dict[str, list[KeptRow]]:
    """Cell id -> kept tokens behind the given records of a sibling, in one row for each arm."""
    if not any(records.values()):
        return {}
    known = read_kept(sibling)
    found: dict[str, list[KeptRow]] = {}
    for cell, rows in records.items():
        by_arm: dict[tuple[str, str], dict[str, Kept]] = {}
        for row in rows:
            kept = known.get((row["task"], row["sample_id"], row["arm_id"]))
            if kept is not None:
                by_arm.setdefault((row["task"], row["arm_id"]), {})[row["sample_id"]] = kept
        found[cell] = [
            KeptRow(task=task, cell=cell, arm_id=arm, kept=kept) for (task, arm), kept in by_arm.items()
        ]
    return found


def _copy_image(source: Path, target: Path) -> bool:
    """Copy an image if it is missing; return whether it exists now."""
    if not target.exists():
        try:
            content = source.read_bytes()
        except OSError:
            return False
        write_bytes(target, content)
    return True


def describe_changed(changed: Mapping[str, str]) -> str:
    """One line about changed selectors."""
    named = ", ".join(f"{name} (answers of its earlier source: {run})" for name, run in changed.items())
    return f"changed since an earlier run, so answered again: {named}"


def describe(taken: dict[str, int]) -> str:
    """One line about reused records."""
    return "reused from earlier runs: " + ", ".join(
        f"{counted(n, 'record')} of {name}" for name, n in taken.items()
    )

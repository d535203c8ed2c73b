"""Where a cell stands: what is expected of it, how its last attempt ended, and how many answers are there.

The records decide what is done; `cells/TASK.json`, replaced in one step, only says what they cannot: how many
samples there are, and the error that ended an attempt.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.runs import journal, lock
from zoo_exp.runs.merge import replaced

FOLDER = "cells"
DONE, RUNNING, FAILED, STOPPED, MISSING = "done", "running", "failed", "stopped", "missing"
Answered = dict[str, dict[str, set[str]]]
"""Cell id -> arm id -> ids of the samples that have a record."""


@dataclass(frozen=True)
class State:
    """One cell.

    Attributes:
        cell: the cell.
        state: done, running, stopped (to go on), failed, or missing (never begun).
        answers: how many are recorded.
        expected: how many there will be, or None before the first attempt has counted them.
        note: what ended the last attempt, or who is at work.
    """

    cell: Cell
    state: str
    answers: int
    expected: int | None
    note: str

    @property
    def complete(self) -> bool:
        """Whether every answer is recorded."""
        return self.expected is not None and self.answers >= self.expected


def answered(folder: Path, cells: list[Cell] | None = None) -> Answered:
    """What has a record; only what belongs to some cells, if they are given."""
    found: Answered = defaultdict(lambda: defaultdict(set))
    names: dict[str, str] = {}  # one string for a sample's id under all arms
    wanted = None if cells is None else {cell.id for cell in cells}
    for row in journal.read(folder, "records", wanted):
        try:
            cell, arm, sample = row["cell"], row["arm_id"], row["sample_id"]
        except KeyError:
            continue
        if wanted is None or cell in wanted:
            found[cell][arm].add(names.setdefault(sample, sample))
    return found


def note(folder: Path, cell: Cell, state: str, **facts: Any) -> None:
    """Write down how an attempt on a cell stands; facts that are not given stay as they are."""
    path = _file(folder, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    old = _read(path)
    if old.get("cell") != cell.id:
        old = {}
    content = {**old, "task": cell.task, "cell": cell.id, "state": state, "error": "", **facts}
    with replaced(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def states(folder: Path, cells: list[Cell]) -> list[State]:
    """How all cells stand."""
    records = answered(folder, cells)
    return [_state(folder, cell, records.get(cell.id, {})) for cell in cells]


def _state(folder: Path, cell: Cell, records: Mapping[str, set[str]]) -> State:
    content = _read(_file(folder, cell))
    if content.get("cell") != cell.id:
        content = {}
    answers = sum(len(records.get(arm.id, ())) for arm in cell.arms)
    samples = content.get("samples")
    expected = None if samples is None else samples * len(cell.arms)
    holder = lock.holder(folder, cell.id)
    error = str(content.get("error") or "")
    if holder is not None:
        return State(cell, RUNNING, answers, expected, holder)
    if expected is not None and answers >= expected > 0:
        return State(cell, DONE, answers, expected, "")
    state = content.get("state", MISSING)
    if state == RUNNING:  # nobody holds the lock, so it was killed without a word
        return State(cell, FAILED, answers, expected, "ended without a message (killed, or out of memory)")
    if state == DONE:
        return State(cell, MISSING, answers, expected, "records were lost or arms were added")
    return State(cell, state, answers, expected, error)


def _file(folder: Path, cell: Cell) -> Path:
    return folder / FOLDER / f"{cell.task}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

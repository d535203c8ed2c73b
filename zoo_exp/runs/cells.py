"""State of a cell: expected and recorded responses, and how the last attempt ended.

The records determine what is done. `cells/TASK.json`, written atomically, adds what they do not contain: the number of
samples, and the error that ended an attempt.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.files import write_text
from zoo_exp.runs import folder, lock, reading
from zoo_exp.runs.run_answers import Answers

STATES = DONE, RUNNING, FAILED, STOPPED, MISSING = "done", "running", "failed", "stopped", "missing"
Answered = dict[str, dict[str, set[str]]]
"""Cell id -> arm id -> ids of the recorded samples."""


@dataclass(frozen=True)
class State:
    """State of one cell.

    Attributes:
        cell: the cell.
        state: done, running, stopped (can be resumed), failed, or missing (never started).
        answers: number of recorded responses.
        expected: total number of responses, or None before the first attempt has counted them.
        note: the error that ended the last attempt, or the process that runs the cell.
    """

    cell: Cell
    state: str
    answers: int
    expected: int | None
    note: str

    @property
    def complete(self) -> bool:
        """Whether every response is recorded."""
        return self.expected is not None and self.answers >= self.expected


def answered(run: Path, cells: list[Cell] | None = None) -> Answered:
    """Recorded samples by cell and arm, restricted to `cells` and their arms if given."""
    found: Answered = defaultdict(lambda: defaultdict(set))
    names: dict[str, str] = {}  # share one string per sample id across arms
    wanted = None if cells is None else {cell.id: {arm.id for arm in cell.arms} for cell in cells}
    for row in reading.records(run, wanted):
        if wanted is None or row["arm_id"] in wanted.get(row["cell"], ()):
            sample = row["sample_id"]
            found[row["cell"]][row["arm_id"]].add(names.setdefault(sample, sample))
    return found


def note(run: Path, cell: Cell, state: str, **facts: Any) -> None:
    """Write the state of a cell; facts that are not given are kept."""
    old = noted(run, cell)
    content = {**old, "task": cell.task, "cell": cell.id, "state": state, "error": "", **facts}
    write_text(folder.cell(run, cell.task), json.dumps(content, indent=1) + "\n")


def noted(run: Path, cell: Cell) -> dict[str, Any]:
    """What `note` wrote about a cell; empty without a note, or with one about another cell."""
    content = _read(folder.cell(run, cell.task))
    return content if content.get("cell") == cell.id else {}


def states(run: Path, cells: list[Cell]) -> list[State]:
    """The state of every cell."""
    records = answered(run, cells)
    return [_state(run, cell, records.get(cell.id, {})) for cell in cells]


def unfinished(run: Path, answers: Answers, cells: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One note for each task with missing responses, for example after an interrupted run.

    Args:
        run: the run folder; `cells/TASK.json` has the number of questions.
        answers: its records.
        cells: task -> cell ids of its records.
    """
    notes = []
    for task, own in sorted(answers.tasks.items()):
        counts = [len(own.arms.get(str(arm["arm_id"]), ())) for arm in answers.arms]
        low, high = min(counts), max(counts)
        content = _read(folder.cell(run, task))
        total = content.get("samples") if content.get("cell") in cells.get(task, ()) else None
        whole = f" of {total}" if total is not None and total > low else ""
        if low < high:
            found = f"between {low} and {high}{whole} questions answered, by arm"
        elif whole:
            found = f"{low}{whole} questions answered"
        else:
            continue
        notes.append(f"{task}: unfinished, {found}; rerun the same command to resume")
    return notes


def _state(run: Path, cell: Cell, records: Mapping[str, set[str]]) -> State:
    content = noted(run, cell)
    answers = sum(len(records.get(arm.id, ())) for arm in cell.arms)
    samples = content.get("samples")
    expected = None if samples is None else samples * len(cell.arms)
    holder = lock.holder(run, cell.id)
    error = str(content.get("error") or "")
    if holder is not None:
        return State(cell, RUNNING, answers, expected, holder)
    if expected is not None and answers >= expected > 0:
        return State(cell, DONE, answers, expected, "")
    state = content.get("state")
    if state not in STATES:
        return State(cell, MISSING, answers, expected, error)
    if state == RUNNING:  # the lock is free: the process was killed before it could update the state
        return State(cell, FAILED, answers, expected, "ended without a message (killed, or out of memory)")
    if state == DONE:
        return State(cell, MISSING, answers, expected, "records were lost or arms were added")
    return State(cell, state, answers, expected, error)


def _read(path: Path) -> dict[str, Any]:
    """Content of a state file; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    samples = content.get("samples") if isinstance(content, dict) else False
    whole = samples is None or (type(samples) is int and 0 <= samples < 2**53)
    return dict(content) if whole else {}

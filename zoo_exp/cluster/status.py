"""The status of every cell of an array, from its records, lock, queue entry and the last line of its log."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo_exp.cluster import tools
from zoo_exp.cluster.submission import LOGS, folder_of, job_name
from zoo_exp.config.experiment import Experiment
from zoo_exp.console import aligned, columns
from zoo_exp.runs import cells

QUEUED = "queued"
TAIL = 8192
"""Bytes that are read from the end of a log."""


@dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        index: its array index.
        state: done, running, queued, stopped, failed or missing.
        answers: `recorded/expected`.
        note: the process that runs it, or the last line of its log.
    """

    index: int
    task: str
    state: str
    answers: str
    note: str


def queue_or_reason(experiment: Experiment) -> tuple[dict[int, str], str]:
    """Queue states of the experiment by cell; if they are unknown, no states and the reason in one line."""
    if shutil.which("squeue") is None:
        return {}, "squeue is not on the PATH"
    try:
        return tools.queue(job_name(experiment)), ""
    except tools.NoAnswerError as error:
        return {}, error.reason


def rows(experiment: Experiment, queue: Mapping[int, str] | None = None) -> list[Row]:
    """The status of all cells.

    Args:
        experiment: the experiment.
        queue: queue state by cell; None queries the cluster.

    Raises:
        NoAnswerError: the controller does not respond.
    """
    if queue is None:
        queue = tools.queue(job_name(experiment))
    logs = folder_of(experiment) / LOGS
    states = cells.states(experiment.run_dir, experiment.cells())
    return [_row(index, state, queue.get(index), logs) for index, state in enumerate(states)]


def left(found: Sequence[Row]) -> list[int]:
    """Indices of the cells to submit: not complete, not running, not queued."""
    return [row.index for row in found if row.state not in (cells.DONE, cells.RUNNING, QUEUED)]


def table(found: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [("cell", "task", "state", "answers", "")]
    lines += [(str(r.index), r.task, r.state, r.answers, r.note) for r in found]
    return "\n".join(aligned(lines, columns()))


def summary(found: Sequence[Row]) -> str:
    """Number of cells in each state.

    >>> summary([Row(0, "gqa", "done", "8/8", ""), Row(1, "mme", "failed", "2/8", "out of memory")])
    '1 done, 1 failed'
    """
    states = [row.state for row in found]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def wait(experiment: Experiment, say: Callable[[str], None], seconds: float = 5.0) -> None:
    """Wait until no job of the experiment is in the queue; report every change of the numbers.

    Args:
        experiment: the experiment.
        say: prints a line.
        seconds: longest time between two queries. The first come sooner, for jobs that last seconds.
    """
    before, started = "", time.monotonic()
    while queue := tools.queue(job_name(experiment)):
        states = list(queue.values())
        now = ", ".join(f"{states.count(state)} {state.lower()}" for state in sorted(set(states)))
        if now != before:
            say(f"in the queue: {now}")
        before = now
        time.sleep(min(seconds, max(0.5, 0.1 * (time.monotonic() - started))))


def last_line(logs: Path, index: int) -> str:
    """The last line of a cell's newest log that is not SLURM's own; empty without a log."""
    paths = sorted(logs.glob(f"*_{index}.out"), key=lambda path: int(path.name.split("_")[0]))
    if not paths:
        return ""
    with paths[-1].open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return (own or lines or ["(an empty log)"])[-1][:200]


def _row(index: int, state: cells.State, queued: str | None, logs: Path) -> Row:
    answers = f"{state.answers}/{'?' if state.expected is None else state.expected}"
    name, note = state.state, state.note
    if name not in (cells.DONE, cells.RUNNING):
        if queued is not None:
            name, note = QUEUED, queued.lower()
        else:
            line = last_line(logs, index)
            if name == cells.MISSING and line:  # it ended before it could record anything
                name = cells.FAILED
            note = line or note
    return Row(index, state.cell.task, name, answers, note)

"""File locks that allow one writer per cell; they record their holder and are released when it exits."""

import fcntl
import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from zoo_exp.errors import ZooExpError
from zoo_exp.runs import folder


@contextmanager
def cells(run: Path, names: Collection[str]) -> Iterator[None]:
    """Hold the locks of several cells, so that no other process writes their records.

    Raises:
        ZooExpError: another process holds one of the locks.
    """
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(_held(run, name))
        yield


@contextmanager
def waiting(run: Path, name: str) -> Iterator[None]:
    """Wait for a short-lived lock and hold it."""
    with _file(run, name) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def holder(run: Path, name: str) -> str | None:
    """The process that is writing the records of a cell, or None."""
    path = folder.lock(run, name)
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return None
    with file:
        try:
            # A shared lock, so that two processes that call this do not mistake each other for a writer.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "an unknown process"
    return None


@contextmanager
def _held(run: Path, name: str) -> Iterator[None]:
    with _file(run, name) as file:
        if not _taken(file):
            file.seek(0)
            other = file.read().strip() or "an unknown process"
            raise ZooExpError(
                f"{run} is being written by another run ({other}): wait for it to finish, "
                "or choose another folder with out=DIR"
            )
        _sign(file)
        yield


def _taken(file: IO[str]) -> bool:
    """Acquire a lock; retry for one second, because `holder` also acquires it briefly."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


@contextmanager
def _file(run: Path, name: str) -> Iterator[IO[str]]:
    path = folder.lock(run, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        yield file


def _sign(file: IO[str]) -> None:
    """Write the holder into the file, for messages only: the lock itself is held by the kernel."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    place = f", SLURM job {job}{f'_{index}' if index else ''}" if job else ""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}{place}")
    file.flush()

"""One writer per cell: locks that name their holder and vanish with it."""

import fcntl
import os
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from zoo_exp.errors import ZooExpError

FOLDER = "locks"


@contextmanager
def cells(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Hold the locks of cells, so that nobody else records for them.

    Raises:
        ZooExpError: another process holds one of them.
    """
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(_held(folder, name))
        yield


@contextmanager
def waiting(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock of the folder's that is soon free again: waits for it."""
    with _file(folder, name) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


def holder(folder: Path, name: str) -> str | None:
    """Who records for a cell at this moment, or None."""
    path = folder / FOLDER / f"{name}.lock"
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return None
    with file:
        try:
            # Shared, so that two who look do not take each other for a writer.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "an unknown process"
    return None


@contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    with _file(folder, name) as file:
        if not _taken(file):
            file.seek(0)
            other = file.read().strip() or "an unknown process"
            raise ZooExpError(
                f"{folder} is being written by another run ({other}): wait for it, "
                "or give another folder with out=DIR"
            )
        _sign(file)
        yield


def _taken(file: IO[str]) -> bool:
    """Take a lock; tries for a second, since `holder` takes it for a moment too."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


@contextmanager
def _file(folder: Path, name: str) -> Iterator[IO[str]]:
    path = folder / FOLDER / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        yield file


def _sign(file: IO[str]) -> None:
    """Write down who holds it; the lock itself is the kernel's and needs no text."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    place = f", SLURM job {job}{f'_{index}' if index else ''}" if job else ""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}{place}")
    file.flush()

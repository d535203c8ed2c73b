"""The stop flag: SIGUSR1 or SIGTERM lets the batch in hand end, then the run stops and can be resumed.

Imports the standard library only and is set first thing, since a SIGUSR1 without a handler kills the process.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL: not done, and the same command goes on from there."""
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
IDLE_RESTARTS = 3
"""A job that was restarted so often and recorded nothing this time is not requeued once more."""
_received: list[int] = []


class Stopped(Exception):
    """Raised between two batches of a run that was asked to stop; never reaches a user."""


def install() -> None:
    """Let the signals set the flag; does nothing outside of the main thread, where Python allows no handlers."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _note)


def requested() -> signal.Signals | None:
    """The first signal that came, or None."""
    return signal.Signals(_received[0]) if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Listen to the signals in a block, and forget them behind it; what came since `install` counts."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    install()
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            if main and handler is not None:
                signal.signal(number, handler)


def requeue(recorded: int) -> str:
    """Put the SLURM job back into the queue if it was told that its time ends (SIGUSR1), and say what was done.

    After SIGTERM nothing is asked for: SLURM requeues what it preempts, and what a user cancels shall stay so.

    Args:
        recorded: answers of this attempt.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    name = f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if job else os.environ.get("SLURM_JOB_ID")
    if name is None or requested() != signal.SIGUSR1:
        return "the same command goes on from there"
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= IDLE_RESTARTS and not recorded:
        return f"not requeued: {restarts} restarts, and nothing recorded in this one; give it more time=..."
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {name} could not be requeued (scontrol: {error.strerror}); submit again to go on"
    if done.returncode:
        return f"job {name} could not be requeued ({done.stderr.strip()}); submit again to go on"
    return f"job {name} is requeued and goes on from there"


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)

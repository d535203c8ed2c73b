"""The stop flag: after SIGUSR1 or SIGTERM a run finishes the current arm of the batch, stops, and can be resumed.

This module imports only the standard library, so that handlers can be installed before slow imports.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL: not done; the same command resumes."""
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
IDLE_RESTARTS = 3
"""A job with this many restarts is not requeued if it has recorded nothing since the last one."""
_received: list[int] = []


class Stopped(Exception):
    """Raised between two batches after a signal to stop; never reaches a user."""


def install() -> None:
    """Install the signal handlers; does nothing outside the main thread, where Python does not allow handlers."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _note)


def ignore() -> None:
    """Ignore the signals from now on; does nothing where they were not handled before."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is _note:
                signal.signal(number, signal.SIG_IGN)


def receive(number: signal.Signals) -> None:
    """Take a signal that arrived elsewhere, such as at another rank."""
    _received.append(number)


def requested() -> signal.Signals | None:
    """The first signal received, or None."""
    return signal.Signals(_received[0]) if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Handle the signals in a block, and restore the previous handlers after it; signals since `install` count."""
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
    """Requeue the SLURM job if SIGUSR1 announced the end of its time limit; returns a message.

    After SIGTERM the job is not requeued: SLURM requeues preempted jobs itself, and cancelled jobs must stay cancelled.

    Args:
        recorded: new answers of this attempt.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    name = f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if job else os.environ.get("SLURM_JOB_ID")
    if name is None or requested() != signal.SIGUSR1:
        return "rerun the same command to resume"
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if restarts >= IDLE_RESTARTS and not recorded:
        return f"not requeued: nothing recorded since the last of {restarts} restarts; increase time=..."
    try:
        done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {name} could not be requeued (scontrol: {error.strerror}); submit again to resume"
    if done.returncode:
        return f"job {name} could not be requeued ({done.stderr.strip()}); submit again to resume"
    return f"job {name} is requeued and will resume"


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)

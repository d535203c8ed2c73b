"""What ranks tell rank 0 when they stop or fail: a note in the run folder, which all of them share.

A rank that has left cannot take part in a collective operation, and a rank that waits in one does not look at anything
else. So rank 0 has a thread that reads the notes.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from zoo_exp.config.experiment import Cell
from zoo_exp.errors import OURS, UnexpectedError, ZooExpError, as_ours, ending
from zoo_exp.evaluation import stop
from zoo_exp.runs import cells

EVERY = 0.3
"""Seconds between two looks at the notes."""
GRACE = 5.0
"""Seconds after which rank 0 is ended where it is if it waits for a rank that has left."""
PATIENCE = 60.0
"""Seconds that rank 0 gives the processes that Lightning started to finish their batch and to end."""
LOST = (
    "connection closed by peer",
    "connection reset",
    "nccl",
    "gloo",
    "broken pipe",
    "socket timeout",
    "tcpstore",
)
"""Parts of the messages of torch.distributed about a rank that has left."""


def lost(error: BaseException) -> bool:
    """Whether an exception says no more than that another rank has left."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in LOST)


def tell(run: Path, cell: Cell, state: str, rank: int, error: BaseException | str) -> None:
    """Tell rank 0 how this rank ended.

    Args:
        run: the run folder.
        cell: the cell that it worked on.
        state: `cells.STOPPED` or `cells.FAILED`.
        rank: number of this rank.
        error: what ended it.
    """
    ours = as_ours(error) if isinstance(error, BaseException) else ZooExpError(error)
    kind = next(kind.__name__ for kind in type(ours).__mro__ if kind in OURS)
    cells.note(run, cell, state, error=" ".join(str(ours).split()), rank=rank, kind=kind)


def end(
    children: Sequence[subprocess.Popen[bytes]],
    number: signal.Signals,
    patience: float = PATIENCE,
    grace: float = GRACE,
) -> None:
    """Send a signal to processes and wait for them; those that do not end get SIGTERM, and then SIGKILL.

    Args:
        children: the processes.
        number: the first signal.
        patience: seconds for all of them together to end by themselves.
        grace: seconds after SIGTERM, and after SIGKILL.
    """
    for one, seconds in ((number, patience), (signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for child in children:
            with suppress(OSError):
                if child.poll() is None:
                    child.send_signal(one)
        deadline = time.monotonic() + seconds
        while any(child.poll() is None for child in children):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        else:
            return


class Watch:
    """Looks for notes of other ranks while rank 0 works; sets the stop flag when there is one.

    Args:
        run: the run folder.
        cells_: the cells of this run.
        waits: whether rank 0 is still waiting for others to start, and cannot look at the stop flag.
        leave: called before rank 0 is ended where it waits; it ends the other ranks.
    """

    def __init__(
        self,
        run: Path,
        cells_: Sequence[Cell],
        waits: Callable[[], bool],
        leave: Callable[[signal.Signals], None],
    ) -> None:
        self.run, self.cells, self.waits, self.leave = run, list(cells_), waits, leave
        self.error: Exception | None = None
        self.stopped = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="ranks")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def look(self) -> bool:
        """Read the notes once; whether a rank has stopped or failed."""
        for cell in self.cells:
            content = cells.noted(self.run, cell)
            if not content.get("rank"):
                continue
            if content.get("state") == cells.STOPPED:
                self.stopped = True
            elif content.get("state") == cells.FAILED and self.error is None:
                known = {kind.__name__: kind for kind in OURS}
                kind = known.get(str(content.get("kind")), UnexpectedError)
                self.error = kind(str(content.get("error")))  # type: ignore[call-arg]
        return self.stopped or self.error is not None

    def reason(self, error: BaseException) -> BaseException:
        """Why rank 0 ends: what another rank said, if `error` only follows from it.

        Args:
            error: what ended rank 0.
        """
        if not isinstance(error, Exception):
            return error
        deadline = time.monotonic() + (2.0 if lost(error) else 0.0)
        while not self.look() and time.monotonic() < deadline:
            time.sleep(0.1)  # its note may not be visible yet
        if self.error is not None:
            return self.error
        if stop.requested() or self.stopped:
            return stop.Stopped()
        if lost(error):
            return ZooExpError(
                f"another process of this run has ended ({' '.join(str(error).split())[:200]}). Rerun the same "
                "command to resume"
            )
        return error

    def _watch(self) -> None:
        while not self._end.wait(EVERY):
            if self.look():
                if not stop.requested():
                    stop.receive(signal.SIGTERM)
                if self._end.wait(GRACE) or not self.waits():
                    return
                self._exit()

    def _exit(self) -> None:
        """End this process, whose main thread waits for a rank that has left: nothing can wake it."""
        code = stop.EXIT_CODE
        if self.error is not None:
            line, code = ending(self.error)
            print(line, file=sys.stderr, flush=True)
        else:
            print("stopped by a signal to another process; rerun the same command to resume", flush=True)
        self.leave(signal.SIGKILL)
        os._exit(code)

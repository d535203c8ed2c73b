"""The threads that use the model, and the queue of requests in front of them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo_exp.errors import ZooExpError
from zoo_exp.files import log
from zoo_exp.serving.http_errors import ApiError


@dataclass(frozen=True)
class Piece:
    """Text that was generated."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of a response.

    Attributes:
        text: the whole response.
        rest: the part of it that was in no `Piece`.
        reason: `stop` or `length`.
        usage: token counts and milliseconds.
    """

    text: str
    rest: str
    reason: str
    usage: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The request was not answered."""

    error: ApiError


Event = Piece | Finished | Failed


@dataclass(eq=False)
class Job:
    """A request on its way through the worker.

    Attributes:
        work: what the function of the worker reads.
        group: jobs of equal groups may be answered together.
        send: takes the events; it must not block.
        arrived: when it was created, in seconds of `time.perf_counter`.
        started: when the worker took it.
    """

    work: Any
    group: Hashable
    send: Callable[[Event], None]
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    _left: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the response any more."""
        return self._left.is_set()

    def cancel(self) -> None:
        """Note that nobody waits for the response any more: its generation ends at the next token."""
        self._left.set()


def failure(error: BaseException, what: str) -> Failed:
    """An error as an event; the client gets no details of one that was not foreseen."""
    if isinstance(error, ApiError):
        return Failed(error)
    if isinstance(error, ZooExpError):  # such as logits that are NaN: the message is for users
        return Failed(ApiError(500, str(error), "generation_failed"))
    tell(error, what)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message = "the server is out of memory: send a smaller image, a smaller budget or a shorter prompt"
        return Failed(ApiError(503, message, "out_of_memory"))
    return Failed(
        ApiError(500, "internal error: the request was not answered; see the server's log", "internal_error")
    )


def tell(error: BaseException, what: str) -> None:
    """Log an error that was not foreseen: one line, at level DEBUG also the traceback."""
    line = f"{what} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    log.error(line, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)


class Worker:
    """Answers jobs in the order of their arrival.

    Args:
        answer: answers jobs of one group; it sends `Finished` or `Failed` to each.
        most_together: jobs of one group that are answered by one call.
        threads: calls at the same time; `answer` must allow that.
    """

    def __init__(
        self, answer: Callable[[Sequence[Job]], None], most_together: int = 1, threads: int = 1
    ) -> None:
        self._answer, self._most_together = answer, most_together
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._change = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"model {number}", daemon=True)
            for number in range(threads)
        ]

    @property
    def places(self) -> int:
        """Jobs that can be answered at the same time."""
        return self._most_together * len(self._threads)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs that are being answered."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether jobs are answered."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, job: Job) -> None:
        """Append a job to the queue.

        Raises:
            ApiError: 503, the server is stopping.
        """
        with self._change:
            if self._closed:
                raise _stopping()
            self._waiting.append(job)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or end its generation at the next token."""
        job.cancel()
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """Refuse what waits and what comes; the running jobs are finished."""
        with self._change:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
            self._change.notify_all()
        for job in waiting:
            job.send(Failed(_stopping()))

    def join(self, seconds: float) -> bool:
        """Wait for the running jobs after `close`; whether the threads have ended."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closed:
                    self._change.wait()
                if not self._waiting:
                    return
                jobs = self._take()
                self._running |= set(jobs)
            now = time.perf_counter()
            for job in jobs:
                job.started = now
            try:
                self._answer(jobs)
            except BaseException as error:  # the thread must live on, even after SystemExit of a library
                for job in jobs:
                    job.send(failure(error, "a request"))
            finally:
                with self._change:
                    self._running -= set(jobs)

    def _take(self) -> list[Job]:
        """The first job, and later ones of its group."""
        first = self._waiting[0]
        jobs = [job for job in self._waiting if job.group == first.group][: self._most_together]
        for job in jobs:
            self._waiting.remove(job)
        return jobs


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", "stopping", headers={"Retry-After": "10"})

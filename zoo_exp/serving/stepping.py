"""Several threads use one engine that advances all of its requests by a step at a time (continuous batching).

An engine such as vLLM's is used by one thread at a time. Whichever thread waits for tokens makes the next step for all,
and hands the tokens of the others to them; requests that arrive meanwhile join with the step after.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from zoo_exp.models.generators import OnTokens


class Output(NamedTuple):
    """What a step gave one request.

    Attributes:
        name: of the request.
        ids: its new tokens.
        finished: whether these were the last.
    """

    name: str
    ids: list[int]
    finished: bool


class Engine(Protocol):
    """An engine that is used by one thread at a time."""

    def add(self, name: str, request: Any) -> None:
        """Take a request."""

    def step(self) -> Iterable[Output]:
        """Advance all requests."""

    def abort(self, names: Sequence[str]) -> None:
        """Forget requests."""


@dataclass(eq=False)
class _Call:
    """The requests of one thread."""

    requests: dict[str, Any]
    outputs: deque[Output] = field(default_factory=deque)
    error: BaseException | None = None


class Stepping:
    """Shares an engine between threads.

    Args:
        engine: what it makes steps of.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._change = threading.Condition()
        self._busy = False
        """A thread is using the engine."""
        self._arriving: list[_Call] = []
        self._calls: dict[str, _Call] = {}
        self._leaving: list[str] = []

    def run(self, requests: Sequence[Any], on_tokens: OnTokens | None = None) -> list[list[int]]:
        """The new ids of some requests, in their order; other threads may call it at the same time.

        Args:
            requests: as the engine takes them.
            on_tokens: receives the place of a request and its new ids; an exception ends all requests of this call.

        Raises:
            Exception: of the engine, or of `on_tokens`.
        """
        places = {f"zoo-{next(self._numbers)}": place for place in range(len(requests))}
        call = _Call({name: requests[place] for name, place in places.items()})
        found: list[list[int]] = [[] for _ in requests]
        left = len(requests)
        with self._change:
            self._arriving.append(call)
        try:
            while left:
                self._advance(call)
                while call.outputs:
                    output = call.outputs.popleft()
                    place = places[output.name]
                    found[place] += output.ids
                    left -= output.finished
                    if output.ids and on_tokens is not None:
                        on_tokens(place, output.ids)
        finally:
            self._forget(call)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every thread from using the engine, for instance to end it."""
        with self._change:
            while self._busy:
                self._change.wait()
            self._busy = True
        try:
            yield
        finally:
            with self._change:
                self._busy = False
                self._change.notify_all()

    def _advance(self, call: _Call) -> None:
        """Wait for outputs of a call, or make the step that brings them."""
        with self._change:
            while self._busy and not call.outputs and call.error is None:
                self._change.wait()
            if call.error is not None:
                raise call.error
            if call.outputs:
                return
            self._busy = True
            arriving, self._arriving = self._arriving, []
            leaving, self._leaving = self._leaving, []
        outputs: list[Output] = []
        error: BaseException | None = None
        try:
            if leaving:
                self._engine.abort(leaving)
            for one in arriving:
                self._add(one)
            if call.error is None:
                outputs = list(self._engine.step())
        except BaseException as caught:
            error = caught
            raise
        finally:
            with self._change:
                self._busy = False
                for output in outputs:
                    mine = (
                        self._calls.pop(output.name, None)
                        if output.finished
                        else self._calls.get(output.name)
                    )
                    if mine is not None:
                        mine.outputs.append(output)
                if isinstance(error, Exception):  # Ctrl-C concerns this thread alone
                    for other in {*self._calls.values(), *arriving} - {call}:
                        other.error = error
                self._change.notify_all()

    def _add(self, call: _Call) -> None:
        """Give the requests of a call to the engine; what it refuses is the error of that call alone."""
        try:
            for name, request in call.requests.items():
                self._engine.add(name, request)
                with self._change:
                    self._calls[name] = call
        except Exception as error:
            call.error = error

    def _forget(self, call: _Call) -> None:
        """Abort what is not finished with the next step of anybody."""
        with self._change:
            if call in self._arriving:
                self._arriving.remove(call)
            names = [name for name in call.requests if self._calls.pop(name, None) is not None]
            self._leaving += names
            self._change.notify_all()  # the thread that waits may have to make the next step

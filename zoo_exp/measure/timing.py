"""`StageClock`: how long the stages of a run take, on the device's own clock; `Spread`: repeated measurements."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from zoo_exp.errors import InvalidValueError

CLOCKS = ("wall", "process")
NOISE = 0.2
"""Above this spread a measurement is marked: two arms that differ by less cannot be told apart."""


class Marks(Protocol):
    """A clock: `now` gives a mark, `milliseconds` the time between two, once `wait` has returned."""

    def now(self) -> Any:
        """A mark at this moment."""

    def wait(self) -> None:
        """Return when the device has passed every mark."""

    def milliseconds(self, start: Any, stop: Any) -> float:
        """From one mark to another."""


class CpuMarks:
    """The process's performance counter."""

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def wait(self) -> None:
        """A CPU has nothing to wait for."""

    def milliseconds(self, start: float, stop: float) -> float:
        """The difference."""
        return (stop - start) * 1e3


class ProcessMarks(CpuMarks):
    """Time that the process itself has computed: what a shared machine gives to others is not in it."""

    def now(self) -> float:
        """Seconds, of all threads together."""
        return time.process_time()


class CudaMarks:
    """CUDA events: marks in the stream, so that taking the time does not make host and device wait for each other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> torch.cuda.Event:
        """An event after everything launched so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self) -> None:
        """Synchronise."""
        torch.cuda.synchronize(self.device)

    def milliseconds(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        """Time on the device."""
        return float(start.elapsed_time(stop))


def marks_for(device: torch.device, clock: str = "wall") -> Marks:
    """CUDA events on a GPU; elsewhere the performance counter, or the process's own time.

    Raises:
        InvalidValueError: an unknown clock, or process time where work runs elsewhere or on several threads.
    """
    if clock not in CLOCKS:
        raise InvalidValueError(f"clock={clock}: allowed are {', '.join(CLOCKS)}")
    if clock == "wall":
        return CudaMarks(device) if device.type == "cuda" else CpuMarks()
    if device.type == "cuda" or torch.get_num_threads() > 1:
        where = "a GPU" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        raise InvalidValueError(
            f"clock=process measures one thread on a CPU, not {where}: give threads=1, or clock=wall"
        )
    return ProcessMarks()


@dataclass
class StageClock:
    """Times named stages; a stage that runs several times adds up, and stages may lie inside others.

    >>> clock = StageClock()
    >>> with clock.stage("a"):
    ...     pass
    >>> list(clock.read())
    ['a']
    """

    marks: Marks = field(default_factory=CpuMarks)
    _stages: list[tuple[str, Any, Any]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = self.marks.now()
        yield
        self.add(name, start, self.marks.now())

    def add(self, name: str, start: Any, stop: Any) -> None:
        """Note a stage by its marks."""
        self._stages.append((name, start, stop))

    def read(self) -> dict[str, float]:
        """Milliseconds of every stage; waits for the device."""
        self.marks.wait()
        total: dict[str, float] = {}
        for name, start, stop in self._stages:
            total[name] = total.get(name, 0.0) + self.marks.milliseconds(start, stop)
        return total


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing, in the order of the repeats.

    >>> Spread((1.0, 2.0, 3.0)).p50
    2.0
    """

    values: Sequence[float]

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantile(0.5)

    @property
    def p90(self) -> float:
        """Nine of ten are below it."""
        return self.quantile(0.9)

    @property
    def relative(self) -> float:
        """From the first to the last decile, as a share of the median; 0 for a single value."""
        return (self.p90 - self.quantile(0.1)) / self.p50 if self.p50 else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the measurement mostly sees its own noise."""
        return self.relative > NOISE

    def quantile(self, share: float) -> float:
        """By linear interpolation; nan without values."""
        ordered = sorted(self.values)
        if not ordered:
            return math.nan
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

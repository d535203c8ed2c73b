"""`StageClock`: times of stages on the device's clock; `Spread`: statistics of repeated measurements."""

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
"""Relative spread above which a measurement is marked as noisy: smaller differences are not meaningful."""


class Marks(Protocol):
    """Interface of a clock: `now` returns a mark; after `wait`, `milliseconds` returns the time between two marks."""

    def now(self) -> Any:
        """Set a mark."""

    def wait(self) -> None:
        """Wait until the device has passed every mark."""

    def milliseconds(self, start: Any, stop: Any) -> float:
        """Time from one mark to another."""


class CpuMarks:
    """The process's performance counter."""

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def wait(self) -> None:
        """Does nothing on a CPU."""

    def milliseconds(self, start: float, stop: float) -> float:
        """The difference."""
        return (stop - start) * 1e3


class ProcessMarks(CpuMarks):
    """CPU time of the process, which excludes time given to other processes."""

    def now(self) -> float:
        """CPU time of all threads in seconds."""
        return time.process_time()


class CudaMarks:
    """CUDA events, which measure time on the stream without synchronising host and device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> torch.cuda.Event:
        """Record an event."""
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
    """CUDA events on a GPU; elsewhere the performance counter, or the CPU time of the process.

    Raises:
        InvalidValueError: unknown clock, or process time with a GPU or several threads.
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
    """Measures the time of named stages; repeated stages are summed, and stages may be nested.

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
        """Add a stage from its marks."""
        self._stages.append((name, start, stop))

    def read(self) -> dict[str, float]:
        """Milliseconds of every stage; synchronises with the device."""
        self.marks.wait()
        total: dict[str, float] = {}
        for name, start, stop in self._stages:
            total[name] = total.get(name, 0.0) + self.marks.milliseconds(start, stop)
        return total


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of a quantity, in order.

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
        """The 90th percentile."""
        return self.quantile(0.9)

    @property
    def relative(self) -> float:
        """Range between the 10th and the 90th percentile, divided by the median; 0 for a single value."""
        return (self.p90 - self.quantile(0.1)) / self.p50 if self.p50 else 0.0

    @property
    def noisy(self) -> bool:
        """Whether the relative spread is above the bound."""
        return self.relative > NOISE

    def quantile(self, share: float) -> float:
        """Quantile with linear interpolation; nan without values."""
        ordered = sorted(self.values)
        if not ordered:
            return math.nan
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

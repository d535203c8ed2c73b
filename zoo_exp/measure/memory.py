"""`PeakMemory`: peak memory by stage."""

import contextlib
import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory by stage in MiB, relative to the memory in use when this object was created.

    On a GPU this is the allocator's peak. On a CPU it is the peak resident set size, available on Linux only; elsewhere
    peaks are nan. Measuring takes time, so memory and times are measured in different passes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, float] = {}
        self._open: list[float] = []
        self._reset()
        self._held = self._peak()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record the peak inside the block; blocks may be nested."""
        if self._open:
            self._open[-1] = max(self._open[-1], self._peak())
        self._open.append(-math.inf)
        self._reset()
        try:
            yield
        finally:
            peak = max(self._open.pop(), self._peak())
            self.peaks[name] = max(self.peaks.get(name, 0.0), peak - self._held)
            if self._open:
                self._open[-1] = max(self._open[-1], peak)

    def _reset(self) -> None:
        """Reset the peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _give_back_freed_pages()
            with contextlib.suppress(OSError):
                _CLEAR.write_text("5")

    def _peak(self) -> float:
        """MiB."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device)) / 2**20
        return resident_peak_mib()


def _give_back_freed_pages() -> None:
    """Return freed memory to the system (glibc), so that a stage that reuses it is measured correctly."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_peak_mib() -> float:
    """Peak resident memory of this process since the last reset; nan if not available."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return math.nan
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), math.nan)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an out-of-memory error, on a GPU or a CPU."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)

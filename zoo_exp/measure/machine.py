"""Speed of the device that a model will run on: measured in a moment, or that of a common GPU."""

import time
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Machine:
    """What a device can do.

    Attributes:
        name: `cuda` or `cpu`, with the dtype.
        flops: floating-point operations per second of a matrix product.
        bandwidth: bytes per second that a copy reads.
    """

    name: str
    flops: float
    bandwidth: float

    @classmethod
    def expected(cls, weights: float, dtype: torch.dtype) -> "Machine":
        """Where a model will run: the GPU here; without one the CPU, but for a large model a GPU as they are rented.

        Args:
            weights: bytes of its parameters.
            dtype: of its activations.
        """
        if torch.cuda.is_available() or weights < LARGE_MODEL:
            return cls.measured(torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype)
        return A100

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> "Machine":
        """Time one matrix product and one copy on a device: under 0.1 s on a GPU, under 1 s on a CPU."""
        gpu = device.type == "cuda"
        side, numbers = (4096, 2**27) if gpu else (768, 2**23)
        left = torch.ones(side, side, device=device, dtype=dtype)
        data = torch.ones(numbers, device=device, dtype=torch.bfloat16)
        product = _seconds(lambda: left @ left, device)
        copy = _seconds(data.clone, device)
        return cls(f"{device.type}, {_short(dtype)}", 2 * side**3 / product, data.nbytes / copy)


LARGE_MODEL = 2**31
"""Bytes of parameters from which on nobody runs a benchmark on a CPU."""
A100 = Machine("nominal speed of an A100, as this machine has no GPU", 312e12, 1.9e12)
"""NVIDIA A100 80 GB, data sheet of 2021: bfloat16 tensor cores without sparsity, and memory bandwidth."""


def _seconds(work: Any, device: torch.device) -> float:
    """The fastest of some calls."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-9)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

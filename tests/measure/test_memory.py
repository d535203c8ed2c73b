"""Peak memory by stage, including nested stages."""

import sys

import pytest
import torch

from zoo_exp.measure.memory import PeakMemory, is_out_of_memory, resident_peak_mib

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident pages are Linux's to tell")


@linux
def test_a_stage_has_its_own_peak():
    memory = PeakMemory(torch.device("cpu"))
    with memory.stage("large"):
        torch.ones(2**24).sum()  # 64 MiB
    with memory.stage("small"):
        torch.ones(2**8).sum()
    assert memory.peaks["large"] > 60
    assert memory.peaks["small"] < 30


@linux
def test_an_outer_stage_includes_the_inner_peak():
    memory = PeakMemory(torch.device("cpu"))
    with memory.stage("outer"):
        with memory.stage("inner"):
            torch.ones(2**24).sum()
        torch.ones(2**8).sum()
    assert memory.peaks["outer"] >= memory.peaks["inner"] > 60


def test_stages_nest_on_a_gpu_as_on_a_cpu(monkeypatch):
    """A stand-in allocator: the peak since the last reset, in MiB."""
    held, peak = 100, 100

    def allocate(mib):
        nonlocal peak
        peak = max(peak, held + mib)

    def reset(_):
        nonlocal peak
        peak = held

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: peak * 2**20)
    memory = PeakMemory(torch.device("cuda"))
    with memory.stage("outer"):
        allocate(7)
        with memory.stage("inner"):
            allocate(3)
        with memory.stage("inner"):
            allocate(5)
        allocate(1)
    with memory.stage("after"):
        allocate(2)
    assert memory.peaks == {"inner": 5, "outer": 7, "after": 2}


def test_without_system_support_the_peak_is_nan(monkeypatch, tmp_path):
    from zoo_exp.measure import memory

    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    assert resident_peak_mib() != resident_peak_mib()  # nan


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_too_little_memory(error, yes):
    assert is_out_of_memory(error) is yes

"""Clocks: nested and repeated stages, spread, and one synchronisation per GPU reading."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_exp.errors import InvalidValueError
from zoo_exp.measure import timing
from zoo_exp.measure.timing import CudaMarks, Spread, StageClock, marks_for

numbers = st.lists(st.floats(0.1, 1e3), min_size=1, max_size=20)


class _Hand:
    """A clock that is set by hand, in milliseconds."""

    def __init__(self):
        self.time, self.waits = 0.0, 0

    def now(self):
        return self.time

    def wait(self):
        self.waits += 1

    def milliseconds(self, start, stop):
        return stop - start


def test_stages_add_up_and_lie_inside_others():
    hand = _Hand()
    clock = StageClock(hand)
    with clock.stage("outer"):
        hand.time += 3
        with clock.stage("inner"):
            hand.time += 2
    with clock.stage("inner"):
        hand.time += 10
    assert hand.waits == 0
    assert clock.read() == {"inner": 12, "outer": 5}
    assert hand.waits == 1


def test_the_wall_clock_includes_a_sleep():
    clock = StageClock()
    with clock.stage("sleep"):
        time.sleep(0.02)
    assert 19 < clock.read()["sleep"] < 500


def test_a_gpu_is_timed_by_events_and_waited_for_only_when_read(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            log.append(("record", stream))

        def elapsed_time(self, other):
            log.append("elapsed")
            return 1.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"wait for {device}"))
    marks = marks_for(torch.device("cuda", 1))
    assert isinstance(marks, CudaMarks)
    clock = StageClock(marks)
    with clock.stage("a"):
        pass
    assert log == [("record", "stream of cuda:1")] * 2
    assert clock.read() == {"a": 1.5}
    assert log[2:] == ["wait for cuda:1", "elapsed"]
    assert isinstance(marks_for(torch.device("cpu")), timing.CpuMarks)


@given(numbers)
def test_quantiles_are_torchs(values):
    expected = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.5, 0.9], dtype=torch.float64)
    )
    spread = Spread(values)
    assert [spread.p50, spread.p90] == pytest.approx(expected.tolist())


@given(numbers, st.floats(0.1, 10))
def test_the_spread_does_not_depend_on_the_unit(values, unit):
    assert Spread([unit * v for v in values]).relative == pytest.approx(Spread(values).relative)


def test_noise_is_detected():
    assert not Spread([100, 101, 102, 103, 99]).noisy
    assert Spread([100, 101, 150, 103, 70]).noisy
    assert not Spread([5.0]).noisy
    assert Spread([0.0, 0.0]).relative == 0


def test_nothing_measured_is_nan_and_not_noise():
    assert math.isnan(Spread([]).p50)
    assert not Spread([]).noisy


def test_process_time_excludes_other_processes(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    clock = StageClock(marks_for(torch.device("cpu"), "process"))
    with clock.stage("sleep"):
        time.sleep(0.05)
    with clock.stage("work"):
        sum(range(10**6))
    assert clock.read()["sleep"] < 20
    assert clock.read()["work"] > 1


def test_process_time_is_refused_where_work_runs_elsewhere(monkeypatch):
    with pytest.raises(InvalidValueError, match=r"clock=process .* not a GPU: give threads=1, or clock=wall"):
        marks_for(torch.device("cuda"), "process")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with pytest.raises(InvalidValueError, match="not 3 threads"):
        marks_for(torch.device("cpu"), "process")
    with pytest.raises(InvalidValueError, match="clock=sun: allowed are wall, process"):
        marks_for(torch.device("cpu"), "sun")

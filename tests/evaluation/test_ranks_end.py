"""Rank 0 ends the processes that it started, whatever they do about it."""

import signal
from types import SimpleNamespace

import pytest

from zoo_exp.evaluation import ranks


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that only sleeping moves: `clock.now`."""
    fake = SimpleNamespace(now=100.0, monotonic=lambda: fake.now)
    fake.sleep = lambda seconds: setattr(fake, "now", fake.now + seconds)
    monkeypatch.setattr(ranks, "time", fake)
    return fake


class Child:
    """A process that ends at some signal, or by itself after some seconds."""

    def __init__(self, clock, at=None, after=float("inf")):
        self.clock, self.at, self.until, self.received = clock, at, clock.now + after, []

    def poll(self):
        """Its exit code, or None."""
        return 0 if self.at in self.received or self.clock.now > self.until else None

    def send_signal(self, number):
        """What it does with a signal is in `at`."""
        self.received.append(number)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_a_rank_that_does_not_end_is_told_again_and_then_killed(first, clock):
    stubborn, polite, late = Child(clock, signal.SIGKILL), Child(clock, first), Child(clock, after=0.05)
    ranks.end([stubborn, polite, late], first, patience=0.1, grace=0.1)
    assert stubborn.received == [first, signal.SIGTERM, signal.SIGKILL]
    assert polite.received == late.received == [first]
    assert 0.2 <= clock.now - 100 < 0.3


def test_the_patience_is_for_all_ranks_together(clock):
    children = [Child(clock, signal.SIGKILL) for _ in range(20)]
    ranks.end(children, signal.SIGTERM, patience=0.1, grace=0.1)
    assert clock.now - 100 < 0.3  # not 20 times as long
    assert all(child.poll() == 0 for child in children)


def test_ranks_that_end_are_not_killed(clock):
    child = Child(clock, signal.SIGTERM)
    ranks.end([child], signal.SIGTERM, patience=60, grace=60)
    assert child.received == [signal.SIGTERM]
    ranks.end([], signal.SIGTERM)

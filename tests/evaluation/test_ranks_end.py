"""Rank 0 ends the processes that it started, whatever they do about it."""

import signal
import time

import pytest

from zoo_exp.evaluation import ranks


class Child:
    """A process that ends at some signal, or by itself after some seconds."""

    def __init__(self, at=None, after=float("inf")):
        self.at, self.until, self.received = at, time.monotonic() + after, []

    def poll(self):
        """Its exit code, or None."""
        return 0 if self.at in self.received or time.monotonic() > self.until else None

    def send_signal(self, number):
        """What it does with a signal is in `at`."""
        self.received.append(number)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1])
def test_a_rank_that_does_not_end_is_told_again_and_then_killed(first):
    stubborn, polite, late = Child(signal.SIGKILL), Child(first), Child(after=0.05)
    started = time.monotonic()
    ranks.end([stubborn, polite, late], first, patience=0.1, grace=0.1)
    assert stubborn.received == [first, signal.SIGTERM, signal.SIGKILL]
    assert polite.received == late.received == [first]
    assert 0.2 <= time.monotonic() - started < 5


def test_the_patience_is_for_all_ranks_together():
    children = [Child(signal.SIGKILL) for _ in range(20)]
    started = time.monotonic()
    ranks.end(children, signal.SIGTERM, patience=0.1, grace=0.1)
    assert time.monotonic() - started < 2  # not 20 times as long
    assert all(child.poll() == 0 for child in children)


def test_ranks_that_end_are_not_killed():
    child = Child(signal.SIGTERM)
    ranks.end([child], signal.SIGTERM, patience=60, grace=60)
    assert child.received == [signal.SIGTERM]
    ranks.end([], signal.SIGTERM)

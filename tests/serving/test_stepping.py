"""Threads that share an engine of steps: each gets its own tokens, errors and aborts."""

import threading
import time

import pytest

from zoo_exp.serving.stepping import Output, Stepping


class Counting:
    """A request is a number; it gets that many tokens, one per step. Used by two threads at once, it fails."""

    def __init__(self):
        self.requests, self.aborted, self.together, self.fails = {}, [], 0, None
        self._lock = threading.Lock()

    def add(self, name, request):
        """Refuse negative numbers."""
        assert not self._lock.locked()
        if request < 0:
            raise ValueError(f"{request} is refused")
        self.requests[name] = (0, request)

    def step(self):
        """One token for every request."""
        assert self._lock.acquire(blocking=False)
        try:
            if self.fails is not None:
                raise self.fails
            time.sleep(0.002)
            self.together = max(self.together, len(self.requests))
            outputs = []
            for name, (done, most) in list(self.requests.items()):
                self.requests[name] = (done + 1, most)
                if done + 1 == most:
                    del self.requests[name]
                outputs.append(Output(name, [most * 100 + done], done + 1 == most))
            return outputs
        finally:
            self._lock.release()

    def abort(self, names):
        """Forget requests."""
        assert not self._lock.locked()
        self.aborted += names
        for name in names:
            self.requests.pop(name, None)


def in_threads(work, count):
    """Results or errors of a function of the thread's number."""
    found = [None] * count

    def run(number):
        try:
            found[number] = work(number)
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return found


def tokens(number):
    return [number * 100 + step for step in range(number)]


def test_each_thread_gets_the_tokens_of_its_requests():
    engine = Counting()
    shared, seen = Stepping(engine), {}

    def work(number):
        mine = seen.setdefault(number, [])
        return shared.run([number + 1, 30 - number], lambda place, ids: mine.append((place, ids)))

    found = in_threads(work, 12)
    assert found == [[tokens(number + 1), tokens(30 - number)] for number in range(12)]
    assert [token for place, ids in seen[3] for token in ids if place == 1] == tokens(27)
    assert engine.together > 12
    assert (engine.requests, engine.aborted) == ({}, [])


def test_what_the_engine_refuses_is_the_error_of_one_call():
    shared = Stepping(Counting())
    found = in_threads(lambda number: shared.run([5, -1] if number == 2 else [20]), 4)
    assert isinstance(found[2], ValueError)
    assert [found[number] for number in (0, 1, 3)] == [[tokens(20)]] * 3
    assert shared.run([3]) == [tokens(3)]


def test_a_reader_that_leaves_aborts_its_requests():
    engine = Counting()
    shared = Stepping(engine)

    def leave(place, ids):
        raise KeyError("left")

    found = in_threads(lambda number: shared.run([1000, 900], leave) if number == 1 else shared.run([40]), 3)
    assert isinstance(found[1], KeyError)
    assert found[0] == found[2] == [tokens(40)]
    assert shared.run([1]) == [tokens(1)]
    assert engine.requests == {}
    assert len(engine.aborted) == 2


def test_an_engine_that_fails_fails_every_call():
    engine = Counting()
    shared = Stepping(engine)

    def work(number):
        if number == 0:
            time.sleep(0.03)
            engine.fails = RuntimeError("dead")
        return shared.run([500])

    assert [str(error) for error in in_threads(work, 4)] == ["dead"] * 4
    with pytest.raises(RuntimeError, match="dead"):
        shared.run([1])

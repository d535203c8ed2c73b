"""Ways to die at a random place: each takes a `random.Random` and gives what a forked child calls first.

And what lets children be forked at all: a model that is loaded before, on one thread.
"""

import os
import signal
from contextlib import contextmanager

import pytest
import torch

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.evaluation import attempt
from zoo_exp.runs import journal, merge


@contextmanager
def loaded_once(overrides):
    """One model for all runs; records are what is under test, so no tables are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        loaded = attempt._load(compose(overrides))
        patch.setattr(attempt, "_load", lambda experiment: loaded)
        patch.setattr(pipeline, "_report", lambda *_: None)
        yield
        torch.set_num_threads(threads)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_write(draw):
    """Die in the n-th write of a journal, with a random part of it on disk."""
    left, write, share = draw.randrange(1, 12), journal._write, draw.random()

    def torn(file, data):
        nonlocal left
        left -= 1
        if left == 0:
            write(file, data[: int(len(data) * share)])
            die()
        write(file, data)

    def prepare():
        journal._write = torn

    return prepare


def at_time(draw, longest=1.2):
    """Die after a random time of at most `longest` seconds."""
    seconds = draw.uniform(0.1, longest)
    return lambda: (
        signal.signal(signal.SIGALRM, lambda *_: die()),
        signal.setitimer(signal.ITIMER_REAL, seconds),
    )


def at_merge(draw):
    """Die in the merge: before the new file is there, or behind it with the journals still in place."""
    replaced, late = merge.replaced, draw.random() < 0.5

    def prepare():
        @contextmanager
        def dying(path, **options):
            with replaced(path, **options) as file:
                yield file
                if path.name == "records.jsonl" and not late:
                    die()
            if path.name == "records.jsonl":
                die()

        merge.replaced = dying

    return prepare

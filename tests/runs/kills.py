"""Ways to die at a random place: each takes a `random.Random` and gives what a forked child calls first.

And what lets children be forked at all: a model that is loaded before, on one thread.
"""

import io
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


POINTS = ("open", "write", "fsync", "replace", "unlink")


@contextmanager
def watched(folder, act):
    """Calls `act(kind, path)` before every operation on files below a folder, and with half of a write done.

    Args:
        folder: the folder.
        act: may kill the process.
    """
    inside = f"{folder}{os.sep}"

    def path_of(target):
        return os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(target)

    def before(kind, function):
        def watching(target, *args, **kwargs):
            if path_of(target).startswith(inside):
                act(kind, path_of(target))
            return function(target, *args, **kwargs)

        return watching

    write = os.write

    def in_halves(file, data):
        if not path_of(file).startswith(inside):
            return write(file, data)
        act("write", path_of(file))
        half = len(data) // 2
        done = write(file, data[:half]) if half else 0
        act("write", path_of(file))
        return done + write(file, data[done:])

    def opened(path, mode="r", *args, **kwargs):
        if not isinstance(path, int) and set(mode) & set("wax") and os.path.abspath(path).startswith(inside):
            act("open", os.path.abspath(path))
        return real_open(path, mode, *args, **kwargs)

    real_open = io.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", in_halves)
        for name in ("fsync", "replace", "unlink", "open"):
            patch.setattr(os, name, before(name, getattr(os, name)))
        patch.setattr(io, "open", opened)
        yield


_watching = []


def watch(folder, act):
    """`watched` until the process ends."""
    _watching.append(watched(folder, act))  # a context that nobody holds is left at once
    _watching[-1].__enter__()


def at_point(folder, number):
    """Die before the n-th operation on files below a folder, from 1."""
    left = number

    def act(kind, path):
        nonlocal left
        left -= 1
        if left == 0:
            die()

    watch(folder, act)

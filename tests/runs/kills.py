"""Ways to die at a random place: each takes a `random.Random` and gives what a forked child calls first.

And what lets children be forked at all: a model that is loaded before, on one thread.
"""

import io
import os
import signal
import socket
import sys
import time
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


def fork(work, log):
    """A child that does some work and ends with its result; what it prints goes to a file."""
    child = os.fork()
    if child:
        return child
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def ended(children, seconds=600, grace=5):
    """How the children ended: exit codes, minus the signal for those that were killed.

    Where one ends badly, the others are killed after a moment, as `srun --kill-on-bad-exit` and Lightning do: a rank
    that waits for another one's first word would wait for half an hour.
    """
    codes, deadline = {}, time.monotonic() + seconds
    bad = False
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
                    if codes[child] and not bad:
                        bad, deadline = True, time.monotonic() + grace
        if bad and time.monotonic() > deadline:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
            deadline += seconds
        if time.monotonic() > deadline:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
            pytest.fail(f"hung: {codes}")
        time.sleep(0.01)
    return [codes[child] for child in children]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def as_rank(rank, port, work):
    """`work` in one of two processes, as torchrun would start it."""

    def inside():
        os.environ.update(
            TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", GROUP_RANK="0",
            LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        return work()

    return inside

"""Locks: one writer per cell, named in errors, released when it exits."""

import signal
import subprocess
import sys

import pytest

from zoo_exp.errors import ZooExpError
from zoo_exp.runs import lock

HOLD = """
import sys, time
from pathlib import Path
from zoo_exp.runs import lock
with lock.cells(Path(sys.argv[1]), ["a"]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of cell a."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_error_names_the_other_process(tmp_path, other):
    with pytest.raises(ZooExpError, match=rf"written by another run \(process {other.pid} on .*out=DIR"):
        lock.cells(tmp_path, ["b", "a"]).__enter__()
    with lock.cells(tmp_path, ["b"]):  # given back by the refused one, and no business of the other's
        pass


def test_locks_of_a_killed_process_are_released(tmp_path, other):
    assert f"process {other.pid}" in lock.holder(tmp_path, "a")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock.holder(tmp_path, "a") is None
    with lock.cells(tmp_path, ["a"]):
        pass


def test_reading_the_holder_does_not_take_the_lock(tmp_path):
    assert lock.holder(tmp_path, "a") is None
    with lock.cells(tmp_path, ["a"]):
        pass
    assert lock.holder(tmp_path, "a") is None
    assert lock.holder(tmp_path, "a") is None


def test_a_slurm_job_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    with lock.cells(tmp_path, ["a"]):
        assert "SLURM job 17_4" in (tmp_path / "locks" / "a.lock").read_text()

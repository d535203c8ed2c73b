"""Data workers share the run's lock, so they must not outlive a killed main process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from zoo_exp.runs import lock

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from zoo_exp.evaluation.sample_batches import _start_worker
from zoo_exp.runs import lock
with lock.cells(Path(sys.argv[1]), ["gqa"]):
    worker = os.fork()
    if worker == 0:
        _start_worker(0)
        print("ready", os.getpid(), flush=True)
        time.sleep(300)
    time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_a_killed_run_can_be_resumed_at_once(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(run.stdout.readline().split()[1])
    assert "process" in lock.holder(tmp_path, "gqa")
    run.send_signal(signal.SIGKILL)
    run.wait()
    for _ in range(3000):  # until the kernel has ended the worker
        if lock.holder(tmp_path, "gqa") is None:
            break
        time.sleep(0.01)
    else:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived the run and holds its lock")
    with lock.cells(tmp_path, ["gqa"]):
        pass

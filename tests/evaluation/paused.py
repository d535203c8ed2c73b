"""Runs that wait after their first answers until somebody stops them, so that no test depends on who is faster."""

import subprocess
import sys
import time
from pathlib import Path

import warm

from zoo_exp.runs import reading

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, time
from zoo_exp.cli import entry
from zoo_exp.evaluation import module, stop
answer, parent = module.PrunedVLM.test_step, os.getppid()
def step(self, *args, **kwargs):
    answer(self, *args, **kwargs)
    while self.recorded >= {answers} and not stop.requested():
        if os.getppid() != parent:  # rank 0 was killed: this one would wait forever
            os._exit(1)
        time.sleep(0.01)
module.PrunedVLM.test_step = step
stop.install()
entry()
"""


def start(folder, overrides, answers=2):
    """Start `run` in a process group of its own; each of its ranks waits once it has recorded some answers.

    Args:
        folder: for the script.
        overrides: of the run.
        answers: how many.
    """
    script = folder / "paused.py"
    script.write_text(SCRIPT.format(answers=answers))
    return warm.Popen(
        [sys.executable, str(script), "run", *overrides], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def until_rows(folder, count, process):
    """Wait until a run has recorded so many answers."""
    while sum(1 for _ in reading.records(folder)) < count:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)

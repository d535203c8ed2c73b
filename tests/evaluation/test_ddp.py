"""Two ranks write the same bytes as one process, also if one is killed or fewer samples than ranks are left."""

import subprocess
import sys
from pathlib import Path

import paused
import pytest
import warm
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.evaluation import stop
from zoo_exp.runs import folder as run_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BASE = [
    "selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_mme]", "limit=5", "logger=none",
    "model.batch_size=1",
]  # fmt: skip
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]


def finish(out):
    command = [sys.executable, "-m", "zoo_exp", "run", *BASE, *DDP, f"out={out}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 500}
    done = warm.run(command, cwd=ROOT, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def single(out, *more):
    experiment = compose([*BASE, "trainer=cpu", f"out={out}", *more])
    assert pipeline.run(experiment, Console(quiet=True)) == 0
    return (experiment.run_dir / "records.jsonl").read_bytes()


def test_a_killed_rank_and_a_remainder_of_one_sample(tmp_path):
    expected = single(tmp_path / "one")
    out = tmp_path / "two"
    folder = compose([*BASE, f"out={out}"]).run_dir
    first = paused.start(tmp_path, [*BASE, *DDP, f"out={out}"])
    paused.until_rows(folder, 4, first)
    first.kill()
    first.wait()
    finish(out)
    assert (folder / "records.jsonl").read_bytes() == expected
    # Each rank wrote to its own journal; the merge left none.
    assert run_folder.journals(folder, "records") == []
    lines = expected.splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[1:]))
    assert f"{len(lines) - 1} of {len(lines)} answers are already recorded" in finish(out)
    assert (folder / "records.jsonl").read_bytes() == expected


def test_sigterm_to_the_first_rank_stops_both_and_the_next_run_resumes(tmp_path):
    expected = single(tmp_path / "one")
    out = tmp_path / "two"
    folder = compose([*BASE, f"out={out}"]).run_dir
    first = paused.start(tmp_path, [*BASE, *DDP, f"out={out}"])
    paused.until_rows(folder, 4, first)
    first.terminate()
    printed, _ = first.communicate(timeout=600)
    assert first.returncode == stop.EXIT_CODE, printed
    assert "stopped by SIGTERM" in printed
    finish(out)
    assert (folder / "records.jsonl").read_bytes() == expected

"""Scores of a run in progress: at its end they equal those computed from the records, on one rank, two, and resumed."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import warm
from rich.console import Console

from zoo_exp import pipeline, tasks
from zoo_exp.config import compose
from zoo_exp.evaluation import attempt, launch
from zoo_exp.evaluation.progress import RunProgress
from zoo_exp.runs import reading
from zoo_exp.tasks.metric import TaskMetric

ROOT = Path(__file__).resolve().parents[2]
BASE = [
    "selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_mme,embedded_mmbench]", "limit=6", "logger=none",
    "model.batch_size=2",
]  # fmt: skip
PRINT = """
import json, os, zoo_exp.evaluation.module as m
end = m.PrunedVLM.on_test_end
def on_test_end(self):
    end(self)
    found = self.running_scores.synced(self.left, self.device)
    os.write(1, ("SCORES " + json.dumps(found) + "\\n").encode())  # whole: both ranks write at once
m.PrunedVLM.on_test_end = on_test_end
from zoo_exp.cli import entry
entry()
"""


@pytest.fixture
def modules(monkeypatch):
    """Every `PrunedVLM` that a run makes."""
    made = []

    class Noted(attempt.PrunedVLM):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(attempt, "PrunedVLM", Noted)
    return made


def run(out, *more):
    experiment = compose([*BASE, "trainer=cpu", f"out={out}", *more])
    assert pipeline.run(experiment, Console(quiet=True)) == 0
    return experiment


def scores(module):
    """Task -> arm -> metrics as the module has them."""
    return module.running_scores.synced(module.left, module.device)


def from_records(folder):
    """Task -> arm -> metrics from the records on disk."""
    rows = {}
    for row in reading.records(folder):
        rows.setdefault(row["task"], {}).setdefault(row["arm"], []).append(
            {"sample_id": row["sample_id"], **row["parts"]}
        )
    return {
        name: {arm: tasks.get(name).aggregate(each) for arm, each in arms.items()}
        for name, arms in rows.items()
    }


def test_final_scores_equal_those_of_the_records_and_of_the_table(modules, tmp_path):
    experiment = run(tmp_path)
    (module,) = modules
    assert scores(module) == from_records(experiment.run_dir)  # to the last bit
    written = json.loads((experiment.run_dir / "results.json").read_text())["rows"]
    main = {(row["task"], row["arm"]): row["value"] for row in written if row["task"] != "average"}
    assert len(main) == 6
    for (name, arm), value in main.items():  # the file has ten significant digits
        assert float(f"{scores(module)[name][arm][tasks.get(name).main_metric]:.10g}") == value


def test_a_run_gathers_no_scores(modules, tmp_path, monkeypatch):
    """Two collective operations per cell and arm, and nobody reads them."""
    monkeypatch.setattr(launch, "gather", lambda *args: pytest.fail("gathered"))
    monkeypatch.setattr(TaskMetric, "synced", lambda *args: pytest.fail("synchronised"))
    run(tmp_path, "task=embedded_pope", "limit=2")


def test_after_a_resume_the_earlier_records_count(modules, tmp_path):
    expected = from_records(run(tmp_path).run_dir)
    experiment = compose([*BASE, "trainer=cpu", f"out={tmp_path}"])
    path = experiment.run_dir / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[::3]))
    modules.clear()
    run(tmp_path)
    (module,) = modules
    assert module.recorded == len(lines) - len(lines[::3])
    assert scores(module) == expected


def test_running_scores_are_those_of_the_answers_so_far(modules, tmp_path, monkeypatch):
    seen = []
    after = RunProgress.after_arm

    def look(self, arm, answers):
        after(self, arm, answers)
        seen.append((self.module.task.name, arm.label, dict(self.module.running), self.describe(arm)))

    monkeypatch.setattr(RunProgress, "after_arm", look)
    experiment = run(tmp_path, "task=embedded_pope")
    main = tasks.get("embedded_pope").main_metric
    final = {arm: each[main] for arm, each in from_records(experiment.run_dir)["embedded_pope"].items()}
    assert [arm for _, arm, _, _ in seen] == [arm.label for arm in experiment.arms] * 3
    assert set(seen[0][2]) == {"full"}
    assert set(seen[1][2]) == set(final)
    assert seen[-1][2] == final
    zoo = next(label for label in final if label != "full")
    assert seen[-1][3] == f"embedded_pope  full {100 * final['full']:.1f}  {zoo} {100 * final[zoo]:.1f}"


def test_the_progress_bar_shows_the_scores_on_a_terminal(modules, tmp_path):
    experiment = compose([*BASE, "task=embedded_pope", "trainer=cpu", f"out={tmp_path}"])
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=200)
    assert pipeline.run(experiment, console) == 0
    assert re.search(r"embedded_pope  full \d+\.\d", shown.getvalue())


@pytest.mark.slow
def test_two_ranks_agree_with_the_records_also_after_a_resume(tmp_path):
    script = tmp_path / "printing.py"
    script.write_text(PRINT)
    options = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", f"out={tmp_path}"]
    command = [sys.executable, str(script), "run", *BASE, *options, "limit=5"]
    folder = compose([*BASE, *options, "limit=5"]).run_dir

    def scores():
        done = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("SCORES ")]
        assert len(lines) == 2, done.stdout
        return [json.loads(line) for line in lines]

    first = scores()
    expected = from_records(folder)
    assert first == [expected, expected]
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[1::2]))
    assert scores() == [expected, expected]

"""The lab's path of docs/lab.md: two models, nine tasks, an interruption, one table, a W&B report."""

import json
import re
import shlex
from pathlib import Path

import pytest

from zoo_exp._cli import run
from zoo_exp.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    shlex.split(line)[3:]
    for line in (ROOT / "docs" / "lab.md").read_text().split("Three commands:")[1].splitlines()[:6]
    if line.startswith("    python -m zoo_exp ")
]
SMALL = ["limit=1", "logger=none"]


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """Points of a sweep run in this process; `stop_before` is the number of the point at which Ctrl-C comes."""
    calls, stop_before = [], []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def call(command):
        calls.append(command)
        if len(calls) in stop_before:
            return 130
        return main(command[3:])

    monkeypatch.setattr(run, "_call", call)
    return calls, stop_before


def runs_by_model():
    """Model -> folder and number of records of each run."""
    found = {}
    for path in sorted(Path("runs/lab").glob("*/experiment.json")):
        content = json.loads(path.read_text())["experiment"]
        records = (path.parent / "records.jsonl").read_text().splitlines()
        found[content["model"]["name"]] = (path.parent, records)
    return found


@pytest.mark.slow
def test_two_models_nine_tasks_resumed_one_table_and_a_wandb_report(in_process, capsys):
    pytest.importorskip("wandb_workspaces")
    calls, stop_before = in_process
    first, again, report = COMMANDS
    assert first == again
    stop_before.append(2)  # Ctrl-C while the second model runs
    assert main([*first, *SMALL]) == 130
    assert list(runs_by_model()) == ["embedded"]
    folder, before = runs_by_model()["embedded"]
    assert main([*again, *SMALL]) == 0
    found = runs_by_model()
    assert list(found) == ["embedded", "embedded_world1"] or set(found) == {"embedded", "embedded_world1"}
    assert found["embedded"] == (folder, before)  # resumed: nothing was asked again
    tasks = {json.loads(line)["task"] for line in found["embedded_world1"][1]}
    assert len(tasks) == 9
    assert main(report) == 0
    out = capsys.readouterr().out
    page = Path("report/index.html").read_text()
    for model in ("embedded", "embedded_world1"):
        assert model in page
    assert re.search(r"zoo multiply @16", page)
    assert Path("report/wandb_report.json").is_file()
    assert "report: " in out
    assert len(calls) == 4

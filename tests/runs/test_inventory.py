"""`list runs` and `clean`: what is counted, and what is never deleted."""

import json
import re

import pytest

from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs import folder, inventory, lock


@pytest.fixture
def run(make_whole_run):
    return make_whole_run()


def test_runs_are_listed_with_answers_and_size(run, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    records = len((run / "records.jsonl").read_text().splitlines())
    (run / "cells").mkdir(exist_ok=True)
    for task in ("embedded_gqa", "embedded_pope", "embedded_vqav2"):
        (run / "cells" / f"{task}.json").write_text(json.dumps({"samples": 99}))
    assert main(["list", "runs", str(run.parents[1])]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["date", "answers", "size", "model", "experiment", "run"]
    arms = len(json.loads((run / "experiment.json").read_text())["experiment"]["arms"])
    assert f" {records}/{3 * 99 * arms} " in line
    assert line.endswith(str(run))
    (run / "cells" / "embedded_gqa.json").write_text("[]")
    assert inventory.entry(run).expected is None


def test_a_damaged_manifest_is_a_note_and_control_characters_are_not_printed(run, capsys):
    content = json.loads((run / "experiment.json").read_text())
    content["experiment"]["name"] = "a\x1b[31mb"
    (run / "experiment.json").write_text(json.dumps(content))
    damaged = run.parent / "damaged"
    damaged.mkdir()
    (damaged / "experiment.json").write_text("{")
    assert main(["list", "runs", str(run.parents[1])]) == 0
    found = capsys.readouterr()
    assert "\x1b" not in found.out
    assert "damaged" in found.err


def test_no_runs_and_no_folder(tmp_path, capsys):
    assert main(["list", "runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert main(["list", "runs", str(tmp_path / "none")]) == 2
    assert main(["list", "tasks", str(tmp_path)]) == 2


def test_clean_asks_and_deletes_what_was_confirmed(run, capsys, monkeypatch):
    assert main(["clean", str(run)]) == 2  # no terminal to ask at
    assert "add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["clean", str(run)]) == 0
    assert run.is_dir()
    size = inventory.bytes_text(inventory.size_of(run))
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    assert main(["clean", str(run)]) == 0
    assert asked == [f"delete 1 run, {size}? [y/N] "]
    assert not run.exists()


def test_clean_follows_no_links(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    (run / "report").symlink_to(outside, target_is_directory=True)
    (run / "kept.txt").symlink_to(outside / "kept.txt")
    assert inventory.size_of(run) < 10_000_000
    assert main(["clean", str(run), "--yes"]) == 0
    assert not run.exists()
    assert (outside / "kept.txt").read_text() == "kept"


def test_what_is_no_run_folder_is_refused(run, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(run, target_is_directory=True)
    with pytest.raises(InvalidValueError, match="is a link"):
        inventory.check_removable(link)
    with pytest.raises(InvalidValueError, match="it holds 1 run, such as"):
        inventory.check_removable(run.parent)
    with pytest.raises(MissingFileError, match="no folder"):
        inventory.check_removable(tmp_path / "none")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "experiment.json").write_text("{}")
    with pytest.raises(MissingFileError, match="damaged"):
        inventory.check_removable(tmp_path / "home")
    assert main(["clean", str(run), str(tmp_path / "home"), "--yes"]) == 2  # all or none
    assert run.is_dir()


def test_a_run_in_use_is_not_deleted(run):
    with lock.cells(run, ["cell"]), pytest.raises(InvalidValueError, match="in use"):
        inventory.remove(run)
    inventory.remove(run)
    assert not run.exists()


def test_an_interrupted_deletion_can_be_finished(run, monkeypatch):
    def stop(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(inventory.shutil, "rmtree", stop)
        with pytest.raises(MissingFileError, match="cannot delete"):
            inventory.remove(run)
    assert folder.experiment(run).is_file()
    inventory.remove(run)
    assert not run.exists()


def test_output_of_bench_is_listed_without_a_run(tmp_path, capsys):
    folder = tmp_path / "mine" / "0123" / "bench" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    (folder / "bench.csv").write_text("x")
    assert main(["list", "runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"bench +1 B +mine +\S+/mine/0123/bench", out)
    assert "no runs" not in out

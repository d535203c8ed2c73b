"""`run` on the embedded model, from the command line to the files: what a new user does first."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

from zoo_exp import cli
from zoo_exp.embedded import benchmarks, shipped
from zoo_exp.embedded import model as embedded_model

RUN = [
    "run",
    "+exp=ablation_fusion",
    "task=[embedded_pope,embedded_mmbench]",
    "limit=4",
    "budget=16",
    "logger=none",
]
KEYS = {"task", "arm", "sample_id", "response", "score", "kept_tokens"}


def run(out, *more):
    return cli.main([*RUN, f"out={out}", *more])


def folders(out):
    return [path for path in (Path(out) / "ablation_fusion").iterdir() if path.is_dir()]


def records(out):
    (folder,) = folders(out)
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert run(out) == 0
    return out


def test_a_run_writes_all_documented_files(finished):
    (folder,) = folders(finished)
    promised = ("records.jsonl", "results.csv", "results.json", "results.md", "config.yaml", "masks.png")
    assert all((folder / name).stat().st_size > 0 for name in promised)
    assert (folder / "masks.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_has_the_selector_budget_and_response(finished):
    rows = records(finished)
    arms = {row["arm"] for row in rows}
    assert arms == {"full", "blind", *(f"random @16 seed {i}" for i in range(3))} | {
        f"zoo {fusion} @16" for fusion in ("none", "diversity", "sum", "inverted multiply")
    } | {f"zoo {fusion} @16 seed {i}" for fusion in ("multiply", "shuffled multiply") for i in range(3)}
    assert len(rows) == (4 + 4 * 4) * len(arms)  # a unit of MMBench is a question with its four rotations
    assert all(row.keys() >= KEYS for row in rows)
    measured = {row["arm"]: row["kept_tokens"] for row in rows}
    assert measured.pop("full") == 144
    assert measured.pop("blind") == 0
    assert set(measured.values()) == {16}


def test_rerunning_a_command_answers_nothing_twice(finished, capsys):
    (folder,) = folders(finished)
    before = (folder / "records.jsonl").read_bytes()
    assert run(finished) == 0
    assert (folder / "records.jsonl").read_bytes() == before
    assert "300 of 300 answers are already recorded" in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [1, 32])
def test_records_do_not_depend_on_the_batch_size_or_the_day(finished, tmp_path, batch_size):
    assert run(tmp_path, f"model.batch_size={batch_size}") == 0
    assert records(tmp_path) == records(finished)


def test_another_arm_reruns_that_arm_alone(finished, tmp_path, capsys):
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    assert run(out, "budget=[16,8]") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reused from earlier runs: 300 records" in printed
    (new,) = [f for f in folders(out) if not (finished / "ablation_fusion" / f.name).exists()]
    rows = [json.loads(line) for line in (new / "records.jsonl").read_text().splitlines()]
    (old,) = folders(finished)
    assert {json.dumps(row) for row in rows} >= set(
        map(json.dumps, map(json.loads, (old / "records.jsonl").open()))
    )
    assert len(rows) == 20 * (2 + 2 * 13)


def test_layer_selectors_are_counted_by_what_every_layer_sees(tmp_path):
    overrides = ["selector=[full,fastv]", "budget=16", "task=embedded_pope", "limit=4", "logger=none"]
    assert cli.main(["run", *overrides, f"out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("custom/*/records.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    inside = [row for row in rows if row["selector"] == "fastv"]
    assert {row["kept_tokens"] for row in inside} == {144}  # all of them enter the language model
    assert {row["layer_tokens"] for row in inside} == {(2 * 144 + 6 * 16) / 8}
    flops = {row["selector"]: row["flops_tflop"] for row in rows if row["sample_id"] == rows[0]["sample_id"]}
    assert flops["fastv"] < flops["full"]
    # Its work is part of the prefill: the time of selection is unknown, not 0.
    timed = [json.loads(line) for line in (path.parent / "timings.jsonl").read_text().splitlines()]
    assert {row["select_ms"] for row in timed if row["arm"] == "fastv @16"} == {None}
    assert {row["select_ms"] is None for row in timed if row["arm"] == "full"} == {False}


def test_a_damaged_weights_file_is_named(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "weights"
    shutil.copytree(embedded_model.weights_folder(), broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    monkeypatch.setitem(shipped.FOLDERS, "embedded", str(broken))
    assert run(tmp_path / "runs") == 2
    message = capsys.readouterr().err
    assert "damaged" in message
    assert "Traceback" not in message
    weights.unlink()
    assert run(tmp_path / "runs") == 2
    assert "embedded train" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    honest = benchmarks.rows

    def damaged(family, split="test", limit=None, units=None):
        rows = honest(family, split, limit, units)
        return [{**row, "image": {"bytes": b"no picture", "path": None}} for row in rows]

    monkeypatch.setattr(benchmarks, "rows", damaged)
    assert run(tmp_path) == 2
    message = capsys.readouterr().err
    assert "image" in message
    assert "embedded_pope" in message


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert run(tmp_path / "taken") == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_the_records_and_the_same_command_resumes(finished, tmp_path):
    """Ctrl-C comes between two batches, where the run waits for it."""
    code = (
        "import signal, time\nfrom zoo_exp.cli import entry\nfrom zoo_exp.evaluation import module\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nanswer = module.PrunedVLM.test_step\n"
        "def step(*args, **kwargs):\n    answer(*args, **kwargs)\n    while True: time.sleep(0.05)\n"
        "module.PrunedVLM.test_step = step\nentry()"
    )
    command = [*RUN, "model.batch_size=1", f"out={tmp_path}"]
    child = warm.Popen(
        [sys.executable, "-c", code, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not any(f.stat().st_size for f in tmp_path.glob("*/*/journals/records*")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 130, errors
    assert "same command to resume" in errors
    kept = records(tmp_path)
    assert 0 < len(kept) < len(records(finished))
    assert cli.main(command) == 0
    rows = records(tmp_path)
    assert rows == records(finished)
    text = {json.dumps(row) for row in rows}
    assert all(json.dumps(row) in text for row in kept)

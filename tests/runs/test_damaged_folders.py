"""Invalid rows in a run or a sibling are reported and set aside, and never end a run or report."""

import json
import shutil

import pytest
from kills import loaded_once
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.runs import reading
from zoo_exp.runs.load import load_run

BASE = [
    "selector=[full,zoo]", "budget=16", "task=embedded_pope", "limit=2", "logger=none", "model.batch_size=2",
    "trainer=cpu",
]  # fmt: skip
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module", autouse=True)
def one_model():
    """Load the model once for all runs of this module."""
    with loaded_once(BASE):
        yield


def run(out, *more):
    experiment = compose([*BASE, f"out={out}", *more])
    return pipeline.run(experiment, Console(quiet=True)), experiment.run_dir


@pytest.fixture(scope="module")
def finished(one_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run(out)[0] == 0
    return out


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished / "custom", tmp_path / "custom")
    (run_dir,) = (tmp_path / "custom").iterdir()
    return run_dir


def text(**values):
    """Change a row: values that take the place of those of the row."""
    return lambda line: json.dumps(json.loads(line) | values)


DAMAGE = {
    "nested": lambda line: DEEP,
    "nested value": lambda line: line.rstrip()[:-1] + f', "extra": {DEEP}}}',
    "list cell": text(cell=["x"]),
    "another cell": text(cell="of another run"),
    "list arm": text(arm_id=["x"], arm=["x"]),
    "another arm": text(arm_id="of another run"),
    "null task": text(task=None),
    "number as id": text(sample_id=5),
    "surrogate": lambda line: json.dumps(json.loads(line) | {"response": "\ud800", "question": "\udfff"}),
    "no score": text(score="high"),
    "a list": lambda line: "[1]",
    "nothing": lambda line: "{}",
    "cut": lambda line: line[: len(line) // 2],
    "zeros": lambda line: "\0" * 50,
}


@pytest.mark.parametrize("name", ["records", "timings", "masks"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_row_is_set_aside_and_made_again(copy, finished, caplog, kind, name):
    path = copy / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    bad = DAMAGE[kind](lines[1 if len(lines) > 1 else 0])
    same = bad == lines[1 if len(lines) > 1 else 0]
    path.write_text("\n".join([*lines[:1], bad, *lines[2:]]) + "\n")
    load_run(copy)  # what a report reads
    reading.read_timings(copy)
    reading.masks(copy)
    assert run(copy.parents[1])[0] == 0
    expected = finished / copy.relative_to(copy.parents[1])
    assert (copy / "records.jsonl").read_bytes() == (expected / "records.jsonl").read_bytes()
    if name == "records":
        assert same or "line 2 is damaged" in caplog.text
        assert same or len(list(copy.glob("*.damaged"))) == 1
    caplog.clear()
    load_run(copy)
    reading.masks(copy)
    reading.read_timings(copy)
    assert not caplog.records  # the merge has left the damaged row out


@pytest.mark.parametrize("kind", [*DAMAGE, "folder", "newer"])
def test_a_damaged_sibling_does_not_stop_a_healthy_run(copy, finished, kind):
    for name in ("records", "masks", "timings"):
        path = copy / f"{name}.jsonl"
        lines = path.read_text().splitlines()
        if kind == "folder":
            path.unlink()
            path.mkdir()
        elif kind == "newer":
            path.write_text(text(version=9)(lines[0]) + "\n")
        else:
            path.write_text("\n".join([DAMAGE[kind](lines[0]), *lines[1:]]) + "\n")
    (copy / "experiment.json").write_text("{" if kind == "folder" else DEEP)
    code, larger = run(copy.parents[1], "limit=3")
    assert code == 0
    assert larger != copy
    assert len((larger / "records.jsonl").read_bytes().splitlines()) == 6
    assert len((larger / "masks.jsonl").read_bytes().splitlines()) in (1, 2, 3)


def test_records_and_masks_of_a_sibling_are_those_of_a_run_of_its_own(copy, tmp_path_factory):
    _, alone = run(tmp_path_factory.mktemp("alone"), "limit=3")
    _, larger = run(copy.parents[1], "limit=3")
    for name in ("records.jsonl", "masks.jsonl"):
        assert (larger / name).read_bytes() == (alone / name).read_bytes()


def test_records_of_version_1_are_resumed(copy, finished):
    """A folder of the first edition: its records are kept, what it lacks is made, and the bytes are the same."""
    whole = (copy / "records.jsonl").read_bytes()
    old = []
    for line in whole.splitlines():
        row = json.loads(line)
        seed = {"seed_index": row["seed"]}
        old.append(
            {k: v for k, v in row.items() if k not in ("version", "row", "seed", "layer_tokens")} | seed
        )
    (copy / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old[:-1]))
    manifest = json.loads((copy / "experiment.json").read_text())
    for arm in manifest["experiment"]["arms"]:
        arm["seed_index"] = arm.pop("seed")
        del arm["row"]
    (copy / "experiment.json").write_text(json.dumps(manifest))
    assert len(load_run(copy).records) == len(old) - 1
    assert run(copy.parents[1])[0] == 0
    assert (copy / "records.jsonl").read_bytes() == whole


def test_leftovers_of_a_killed_merge_are_removed_by_the_next_start(copy):
    for name in (
        ".records.jsonl.host-1.tmp",
        "cells/.embedded_pope.json.host-1.tmp",
        "masks/.x.png.host-1.tmp",
    ):
        (copy / name).write_text("half")
    assert run(copy.parents[1])[0] == 0
    assert not list(copy.rglob("*.tmp"))

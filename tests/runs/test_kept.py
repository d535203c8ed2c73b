"""Kept tokens on disk: their format, merging, damage and size."""

import json
import random

import numpy as np
import pytest

from zoo_exp.files import DamagedRowError
from zoo_exp.runs import folder, kept
from zoo_exp.runs.journal import Journal


def row(samples, arm="a", task="t", size=576, keep=64, seed=0):
    draw = random.Random(f"{seed} {arm} {task}")
    masks = {name: kept.Kept.of("24x24", sorted(draw.sample(range(size), keep))) for name in samples}
    return kept.KeptRow(task=task, cell="c", arm_id=arm, kept=masks)


def write(run, rows, rank=0):
    with Journal(run, folder.KEPT, "c", rank) as journal:
        journal.append(one.to_row() for one in rows)


def test_indices_return_as_they_were():
    for layout, size in (("24x24", 576), ("3x3+2x4", 19), ("7", 7), ("2x2 3", 7)):
        assert kept.count(layout) == size
        chosen = sorted(np.random.default_rng(size).permutation(size)[: size // 2].tolist())
        assert kept.Kept.of(layout, chosen).indices() == chosen
    one = row(["x", "y"])
    assert kept.KeptRow.from_row(json.loads(json.dumps(one.to_row()))) == one


@pytest.mark.parametrize(
    "change",
    [
        {"kept": "no base64!"}, {"kept": "AAAA"}, {"layouts": ["24x24"]}, {"layouts": ["24x24", "9999999x1"]},
        {"layouts": ["24x24", "999999x999999"]}, {"layouts": ["24x24", "24x23"]}, {"sample_ids": [1, 2]},
        {"arm_id": None}, {"version": "2"},
    ],
)  # fmt: skip
def test_a_damaged_row_is_named(change):
    with pytest.raises(DamagedRowError):
        kept.KeptRow.from_row(row(["x", "y"]).to_row() | change)


def test_a_merge_gives_the_same_bytes_whatever_processes_wrote(tmp_path):
    names = [f"{n:03d}" for n in range(40)]
    whole = [row(names, arm) for arm in "ab"]
    write(tmp_path / "one", whole)
    kept.merge(tmp_path / "one")
    # Two ranks, a merge in between, a batch that was written twice, and an arm of another experiment.
    parts = [
        kept.KeptRow(task="t", cell="c", arm_id=each.arm_id, kept={name: each.kept[name] for name in own})
        for each in whole
        for own in (names[25:], names[:25])
    ]
    write(tmp_path / "two", parts[:3], rank=1)
    kept.merge(tmp_path / "two", ["a", "b"])
    write(tmp_path / "two", [*parts[2:], row(names, "other")])
    assert len(kept.read(tmp_path / "two")) == 120
    kept.merge(tmp_path / "two", ["a", "b"])
    files = [(tmp_path / name / "kept.parquet").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    assert kept.read(tmp_path / "one", "t", ["007"]) == {
        ("t", "007", each.arm_id): each.kept["007"] for each in whole
    }


def test_a_damaged_file_is_set_aside_and_the_rest_stays(tmp_path, caplog):
    write(tmp_path, [row(["x"])])
    kept.merge(tmp_path)
    (tmp_path / "kept.parquet").write_bytes(b"PAR1 no table")
    assert kept.read(tmp_path) == {}
    assert "kept.parquet is damaged" in caplog.text
    write(tmp_path, [row(["y"])])
    kept.merge(tmp_path)
    assert [key[1] for key in kept.read(tmp_path)] == ["y"]
    assert list(tmp_path.glob("kept.parquet*.damaged"))


def test_an_answer_takes_less_than_40_bytes(tmp_path):
    """Worst case at 64 of 576 tokens: every question has an image of its own, and masks are random (36 bytes each)."""
    names = [f"{n:06d}" for n in range(3000)]
    write(tmp_path, [row(names, "a")])
    kept.merge(tmp_path)
    assert (tmp_path / "kept.parquet").stat().st_size < 40 * 3000

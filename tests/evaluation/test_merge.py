"""The merge: whatever made the records, and in how many pieces, the merged files are the same bytes."""

import json
import random
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.runs import journal, merge, resume
from zoo_exp.runs.journal import Journal

FILES = ("records.jsonl", "records.parquet", "records.csv")


def record(task, arm, sample, **more):
    return {
        "task": task, "arm": arm, "arm_id": f"id of {arm}", "options": {"k": [1]}, "budget": None, "cell": f"c{task}",
        "sample_id": sample, "question": 'a "quoted", é\nquestion', "score": len(sample) % 2, "parts": {"score": 1.0},
        "kept_tokens": 16, **more,
    }  # fmt: skip


ALL = [record(t, a, s) for t in ("pope", "gqa") for a in ("zoo @16", "full") for s in ("10", "9", "é", "Z")]


def reference(rows):
    """The obvious merge: a dictionary, sorted."""
    unique = {}
    for row in rows:
        unique.setdefault((row["task"], row["arm"], row["sample_id"]), row)
    return b"".join(journal.encode(unique[key]) for key in sorted(unique))


def scatter(folder, rows, seed, files=4, repeats=3):
    """Rows in random order over journals of several ranks and attempts, some of them twice, some files torn."""
    draw = random.Random(seed)
    rows = draw.sample(rows, len(rows)) + draw.choices(rows, k=repeats)
    for number in range(files):
        part = rows[number::files]
        with Journal(folder, "records", draw.choice("ab"), draw.randrange(2)) as file:
            for row in part:
                file.append([row])
    for path in journal.journals(folder, "records")[:2]:
        with path.open("ab") as file:
            file.write(journal.encode(draw.choice(rows))[: draw.randrange(1, 60)])
    return rows


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), files=st.integers(1, 6))
def test_the_same_records_give_the_same_bytes(tmp_path_factory, seed, files):
    folder = tmp_path_factory.mktemp("run")
    scatter(folder, ALL, seed, files)
    assert merge.merge(folder) == len(ALL)
    assert (folder / "records.jsonl").read_bytes() == reference(ALL)
    assert journal.journals(folder, "records") == []
    again = [(folder / name).read_bytes() for name in FILES]
    merge.merge(folder)
    assert [(folder / name).read_bytes() for name in FILES] == again


def test_merging_in_steps_is_merging_at_once(tmp_path):
    at_once, in_steps = tmp_path / "a", tmp_path / "b"
    scatter(at_once, ALL, 1)
    merge.merge(at_once)
    for start in range(0, len(ALL), 5):
        scatter(in_steps, ALL[start : start + 5], start)
        merge.merge(in_steps)
    for name in FILES:
        assert (at_once / name).read_bytes() == (in_steps / name).read_bytes()


def test_tables_hold_what_the_lines_hold(tmp_path):
    rows = [*ALL, record("mme", "full", "x", score=None, options={}, extra=True, budget="16")]
    scatter(tmp_path, rows, 2)
    merge.merge(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    parquet = pd.read_parquet(tmp_path / "records.parquet").astype(object)
    table = pd.read_csv(tmp_path / "records.csv", dtype=str, keep_default_na=False)
    assert len(parquet) == len(table) == len(lines) == len(rows)
    for line, cells, texts in zip(lines, parquet.to_dict("records"), table.to_dict("records"), strict=True):
        assert texts["question"] == cells["question"] == line["question"]
        assert json.loads(cells["options"]) == line["options"]
        assert json.loads(texts["parts"]) == line["parts"]
        assert cells["kept_tokens"] == int(texts["kept_tokens"]) == 16
        assert cells["sample_id"] == texts["sample_id"] == line["sample_id"]
        for name in ("score", "budget"):
            assert (line[name] is None) == pd.isna(cells[name]) == (texts[name] == "")
    assert parquet["extra"].tolist() == [True if row["task"] == "mme" else None for row in lines]


def test_an_arm_may_be_renamed(tmp_path):
    scatter(tmp_path, ALL, 3)
    merge.merge(tmp_path)
    merge.merge(tmp_path, {"id of full": "a new name"})
    renamed = [{**row, "arm": "a new name"} if row["arm"] == "full" else row for row in ALL]
    assert (tmp_path / "records.jsonl").read_bytes() == reference(renamed)


def test_what_was_merged_before_stays(tmp_path):
    scatter(tmp_path, ALL[:1], 0, files=1)
    merge.merge(tmp_path)
    scatter(tmp_path, [{**ALL[0], "kept_tokens": 99}], 0, files=1)
    merge.merge(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == reference(ALL[:1])


@pytest.mark.parametrize("where", ["merged", "journal"])
def test_damage_is_named_and_the_damaged_file_is_kept(tmp_path, caplog, where):
    scatter(tmp_path, ALL, 4, files=1, repeats=0)
    if where == "merged":
        merge.merge(tmp_path)
    path = tmp_path / "records.jsonl" if where == "merged" else journal.journals(tmp_path, "records")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    broken = b"".join([lines[0], b"{broken\n", b'{"no": "record"}\n', *lines[1:]])
    path.write_bytes(broken)
    merge.merge(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == reference(ALL)
    messages = [entry.message for entry in caplog.records]
    assert messages[0].startswith(f"{path}, line 2 is damaged")
    assert messages[1].startswith(f"{path}, line 3 is no record")
    assert path.with_name(f"{path.name}.damaged").read_bytes() == broken


def test_a_merge_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch):
    scatter(tmp_path, ALL[:8], 5)
    merge.merge(tmp_path)
    scatter(tmp_path, ALL[8:], 6)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge._Table, "write", full)
    with pytest.raises(OSError, match="No space"):
        merge.merge(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    assert merge.merge(tmp_path) == len(ALL)


def test_timings_of_all_ranks_are_gathered_as_they_are(tmp_path):
    for rank in (0, 1):
        with Journal(tmp_path, "timings", "c", rank) as file:
            file.append([{"rank": rank, "ms": 1.5}])
        merge.gather(tmp_path, "timings")
    assert sorted(row["rank"] for row in journal.read(tmp_path, "timings")) == [0, 1]
    assert journal.journals(tmp_path, "timings") == []


def test_masks_of_one_question_become_one_row(tmp_path):
    def row(sample, *arms):
        return {"task": "pope", "sample_id": sample, "arms": [{"arm": arm, "indices": [1]} for arm in arms]}

    for rank, rows in enumerate([[row("b", "full", "zoo")], [row("a", "full"), row("b", "zoo", "random")]]):
        with Journal(tmp_path, "masks", "c", rank) as file:
            file.append(rows)
    resume.merge_masks(tmp_path)
    found = [(r["sample_id"], [arm["arm"] for arm in r["arms"]]) for r in journal.read(tmp_path, "masks")]
    assert found == [("a", ["full"]), ("b", ["full", "zoo", "random"])]


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_a_tenth_of_the_minute_that_a_million_may(tmp_path):
    rows = [record("pope", f"arm {n % 10}", str(n // 10), question="q" * 80) for n in range(100_000)]
    with Journal(tmp_path, "records", "c") as file:
        file.append(rows)
    started = time.process_time()
    assert merge.merge(tmp_path) == len(rows)
    assert time.process_time() - started < 6

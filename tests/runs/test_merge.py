"""Merged files are byte-identical, regardless of how the records were produced."""

import json
import os
import random
import resource
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.files import DamagedRowError, encode
from zoo_exp.runs import folder, lines, merge, reading
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.records import MaskArm, MaskRow, Record, Timing, record_row

FILES = ("records.jsonl", "records.parquet", "records.csv")


def record(task, arm, sample, **more):
    record = Record(
        task=task, cell=f"c{task}", arm=arm, arm_id=f"id of {arm}", row=arm, selector="zoo", options={"k": [1]},
        budget=None, seed=0, sample_id=sample, image_id=sample, question='a "quoted", é\nquestion', reference="yes",
        response="no", score=len(sample) % 2, parts={"score": 1.0}, kept_tokens=16, layer_tokens=None, n_visual=144,
        prompt_tokens=20, new_tokens=2, flops_tflop=0.25,
    )  # fmt: skip
    return record.to_row() | more


ALL = [record(t, a, s) for t in ("pope", "gqa") for a in ("zoo @16", "full") for s in ("10", "9", "é", "Z")]


def reference(rows):
    """The obvious merge: a dictionary, sorted."""
    unique = {}
    for row in rows:
        unique.setdefault((row["task"], row["arm"], row["sample_id"]), row)
    return b"".join(encode(unique[key]) for key in sorted(unique))


def scatter(run, rows, seed, files=4, repeats=3):
    """Rows in random order over journals of several ranks and attempts, some of them twice, some files torn."""
    draw = random.Random(seed)
    rows = draw.sample(rows, len(rows)) + draw.choices(rows, k=repeats)
    for number in range(files):
        part = rows[number::files]
        with Journal(run, "records", draw.choice("ab"), draw.randrange(2)) as file:
            for row in part:
                file.append([row])
    for path in folder.journals(run, "records")[:2]:
        with path.open("ab") as file:
            file.write(encode(draw.choice(rows))[: draw.randrange(1, 60)])
    return rows


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), files=st.integers(1, 6))
def test_the_same_records_give_the_same_bytes(tmp_path_factory, seed, files):
    run = tmp_path_factory.mktemp("run")
    scatter(run, ALL, seed, files)
    assert merge.merge(run) == len(ALL)
    assert (run / "records.jsonl").read_bytes() == reference(ALL)
    assert folder.journals(run, "records") == []
    again = [(run / name).read_bytes() for name in FILES]
    merge.merge(run)
    assert [(run / name).read_bytes() for name in FILES] == again


def test_merging_in_steps_is_merging_at_once(tmp_path):
    at_once, in_steps = tmp_path / "a", tmp_path / "b"
    scatter(at_once, ALL, 1)
    merge.merge(at_once)
    for start in range(0, len(ALL), 5):
        scatter(in_steps, ALL[start : start + 5], start)
        merge.merge(in_steps)
    for name in FILES:
        assert (at_once / name).read_bytes() == (in_steps / name).read_bytes()


def test_a_merge_opens_a_bounded_number_of_journals(tmp_path, monkeypatch):
    """Ranks x cells x attempts may be more than the files that a process may open."""
    for number in range(90):
        with Journal(tmp_path, "records", f"cell{number}", 0) as file:
            file.append([record("pope", "full", str(number)), record("pope", "full", str(number + 100))])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(lines, "OPEN", 8)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, before[1]))
    try:
        assert merge.merge(tmp_path) == 180
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    rows = [record("pope", "full", str(n + more)) for n in range(90) for more in (0, 100)]
    assert (tmp_path / "records.jsonl").read_bytes() == reference(rows)


@pytest.mark.parametrize("parts", [{}, {"prediction": "yes"}])
def test_a_record_without_score_parts_is_damaged(parts):
    """The tables compute everything from the parts: such a row failed there, as a bug."""
    row = record("pope", "full", "1", parts=parts)
    with pytest.raises(DamagedRowError, match=r"parts is \{.*, without a score"):
        record_row(row)
    assert record_row(row | {"not_applicable": "no image"})["parts"] == parts


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
    arms = {"id of full": ("a new name", "new"), "id of zoo @16": ("zoo @16", "zoo @16")}
    merge.merge(tmp_path, merge.Members(arms=arms))
    new = {"arm": "a new name", "row": "new"}
    renamed = [{**row, **new} if row["arm"] == "full" else row for row in ALL]
    assert (tmp_path / "records.jsonl").read_bytes() == reference(renamed)


def test_rows_merged_earlier_are_kept(tmp_path):
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
    path = tmp_path / "records.jsonl" if where == "merged" else folder.journals(tmp_path, "records")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    broken = b"".join([lines[0], b"{broken\n", b'{"no": "record"}\n', *lines[1:]])
    path.write_bytes(broken)
    merge.merge(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == reference(ALL)
    messages = [entry.message for entry in caplog.records]
    assert messages[0].startswith(f"{path}, line 2 is damaged")
    assert messages[1].startswith(f"{path}, line 3 is damaged (it lacks task, arm, sample_id")
    assert path.with_name(f"{path.name}.damaged").read_bytes() == broken


def test_a_failed_merge_changes_nothing(tmp_path, monkeypatch):
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


def timing(rank, arm="a"):
    return Timing(
        task="t", cell="c", arm=arm, arm_id=f"id of {arm}", sample_ids=(str(rank),), batch_size=1, vision_ms=1.0,
        select_ms=0.5, prefill_decode_ms=None, spent_ms=1.5,
    )  # fmt: skip


def test_timings_of_all_ranks_are_merged_once(tmp_path):
    for rank in (0, 1):
        with Journal(tmp_path, "timings", "c", rank) as file:
            file.append([timing(rank).to_row()])
        # A merge that was killed before it removed the journals has left them behind.
        journals = {path: path.read_bytes() for path in folder.journals(tmp_path, "timings")}
        merge.merge_timings(tmp_path)
        for path, content in journals.items():
            path.write_bytes(content)
        merge.merge_timings(tmp_path)
    assert list(reading.timings(tmp_path)) == [timing(0), timing(1)]
    assert folder.journals(tmp_path, "timings") == []


def masks(sample, *arms, task="pope"):
    return MaskRow(
        task=task, cell="c", sample_id=sample, question="?", reference="yes", grid=(2, 2), image="masks/x.png",
        arms=tuple(MaskArm(arm=a, arm_id=f"id of {a}", indices=(1,), response="", score=None) for a in arms),
    )  # fmt: skip


@pytest.mark.parametrize("swap", [False, True])
def test_masks_of_one_question_become_one_row_in_the_order_of_the_experiment(tmp_path, swap):
    parts = [[masks("b", "full", "zoo")], [masks("a", "full"), masks("b", "zoo", "random")]]
    for rank, rows in enumerate(reversed(parts) if swap else parts):
        with Journal(tmp_path, "masks", "c", rank) as file:
            file.append(row.to_row() for row in rows)
    arms = {f"id of {name}": (name, name) for name in ("full", "zoo", "random")}
    merge.merge_masks(tmp_path, merge.Members(arms=arms))
    assert reading.masks(tmp_path) == [masks("a", "full"), masks("b", "full", "zoo", "random")]


def test_masks_take_the_new_label_of_an_arm_and_lose_arms_of_other_experiments(tmp_path):
    with Journal(tmp_path, "masks", "c") as file:
        file.append([masks("a", "full", "zoo").to_row(), masks("b", "zoo").to_row()])
    merge.merge_masks(tmp_path, merge.Members(arms={"id of full": ("all", "all")}))
    (row,) = reading.masks(tmp_path)
    assert [(arm.arm, arm.arm_id) for arm in row.arms] == [("all", "id of full")]


def test_records_of_other_cells_and_arms_are_set_aside(tmp_path, caplog):
    """A row of another experiment would stand in every table; it is kept for people to look at."""
    arms = {"id of full": ("full", "full"), "id of zoo @16": ("zoo @16", "zoo @16")}
    members = merge.Members(frozenset({"cpope", "cgqa"}), arms)
    strange = [record("pope", "full", "x", cell="other"), record("pope", "mine", "x")]
    scatter(tmp_path, [*ALL, *strange], 7, files=1, repeats=0)
    assert merge.merge(tmp_path, members) == len(ALL)
    assert (tmp_path / "records.jsonl").read_bytes() == reference(ALL)
    told = sorted(entry.message.split("damaged ")[1] for entry in caplog.records)
    assert told[0].startswith("(arm id of mine does not belong to this run)")
    assert told[1].startswith("(cell other does not belong to this run)")
    (kept,) = (tmp_path / "journals").glob("*.damaged")
    assert kept.read_bytes().count(b"\n") == len(ALL) + 2


def test_rows_of_version_1_become_rows_of_version_2(tmp_path):
    old = []
    for row in ALL:
        first = {
            key: value for key, value in row.items() if key not in ("version", "row", "seed", "layer_tokens")
        }
        old.append(first | {"seed_index": 0})
    scatter(tmp_path, old, 8)
    merge.merge(tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == reference(ALL)


@pytest.mark.parametrize("kind", ["timings", "masks"])
@pytest.mark.parametrize("damage", ["line", "folder", "journal"])
def test_damaged_timings_and_masks_are_set_aside(tmp_path, caplog, kind, damage):
    row = timing(0).to_row() if kind == "timings" else masks("a", "full").to_row()
    bad = [b"{\n", encode(row | {"task": ["x"]}), b"[" * 100_000 + b"]" * 100_000 + b"\n"]
    with Journal(tmp_path, kind, "c") as file:
        file.append([row])
    path = tmp_path / f"{kind}.jsonl" if damage != "journal" else folder.journals(tmp_path, kind)[0]
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"".join(bad) + (path.read_bytes() if path.exists() else b""))
    for function in (merge.merge_timings, merge.merge_masks):
        function(tmp_path)
    assert len(caplog.records) == (1 if damage == "folder" else len(bad))
    assert path.with_name(f"{path.name}.damaged").exists()
    caplog.clear()
    assert len(reading.masks(tmp_path) if kind == "masks" else list(reading.timings(tmp_path))) == 1
    assert not caplog.records


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_a_tenth_of_the_minute_that_a_million_may(tmp_path):
    rows = [record("pope", f"arm {n % 10}", str(n // 10), question="q" * 80) for n in range(100_000)]
    with Journal(tmp_path, "records", "c") as file:
        file.append(rows)
    started = time.process_time()
    assert merge.merge(tmp_path) == len(rows)
    assert time.process_time() - started < 6

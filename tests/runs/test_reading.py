"""Reading complete and damaged run folders."""

import json
import math

import pandas as pd
import pytest

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import encode, unfinished_line
from zoo_exp.runs import reading
from zoo_exp.runs.load import load_run
from zoo_exp.runs.reading import read_records, read_timings
from zoo_exp.runs.records import Record

ROW = {"task": "gqa", "arm": "full", "sample_id": 7, "response": "red", "score": 1, "kept_tokens": 144}

VERSION_2 = Record(
    task="gqa", cell="c", arm="zoo @16", arm_id="a", row="zoo @16", selector="zoo", options={"fusion": "sum"},
    budget="16", seed=0, sample_id="1", image_id="i", question="?", reference=["red"], response="red", score=1.0,
    parts={"score": 1.0}, kept_tokens=16, layer_tokens=8.5, n_visual=144, prompt_tokens=40, new_tokens=2,
    flops_tflop=0.25,
).to_row()  # fmt: skip


def write(folder, *lines, name="records.jsonl", end="\n"):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_fills_in_what_a_record_may_leave_out(tmp_path):
    frame = read_records(write(tmp_path, ROW, {**ROW, "sample_id": 8, "image_id": "x.png", "seed_index": 2}))
    first, second = frame.to_dict("records")
    assert first["sample_id"] == "7"
    assert first["image_id"] == "sample 7"
    assert (first["arm_id"], second["arm_id"]) == ("full#0", "full#2")
    assert first["n_visual"] == 144
    assert second["image_id"] == "x.png"


def test_columns_hold_what_rows_hold_and_equal_values_once(tmp_path):
    """The frame equals one made of whole rows; reference answers and options of several records are one object."""
    rows = [
        {**VERSION_2, "arm_id": arm, "sample_id": str(n), "score": score, "layer_tokens": layers, "seed": n % 2,
         "reference": ["red", "a red"] if n else ["1", 1], "parts": {"score": 1.0, "n": n % 2 or 1.0, "x": None}}
        for arm, layers in (("a", None), ("b", 3.25))
        for n, score in enumerate((1.0, 0, 0.5))
    ]  # fmt: skip
    frame = read_records(write(tmp_path, *rows))
    whole = pd.DataFrame(list(reading.records(tmp_path)), columns=list(reading.COLUMNS))
    whole["score"], whole["layer_tokens"] = whole["score"].astype(float), whole["layer_tokens"].astype(float)
    pd.testing.assert_frame_equal(frame, whole, check_exact=True)
    assert [repr(x) for x in frame["parts"]] == [repr(x) for x in whole["parts"]]
    assert len({id(x) for x in frame["reference"]}) == 2
    assert len({id(x) for x in frame["options"]}) == 1
    assert len({id(x) for x in frame["parts"]}) == 2  # 1 and 1.0 are not taken for each other


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_an_incomplete_last_line_is_ignored(tmp_path, cut):
    torn = json.dumps({**ROW, "sample_id": 8})[:cut]
    assert len(read_records(write(tmp_path, ROW, torn, end=""))) == 1


def test_a_whole_last_line_without_a_line_end_counts(tmp_path):
    assert len(read_records(write(tmp_path, ROW, {**ROW, "sample_id": 8}, end=""))) == 2


GARBAGE = ["{", "\x00\x00", '"text"', "[1]", "[" * 100_000 + "]" * 100_000, '{"task": "\\ud800"}']


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_lines_are_reported_and_the_rest_is_kept(tmp_path, caplog, garbage):
    write(tmp_path, ROW, garbage, {**ROW, "sample_id": 8})
    assert len(read_records(tmp_path)) == 2
    (entry,) = caplog.records
    assert entry.message.startswith(f"{tmp_path / 'records.jsonl'}, line 2 is damaged (")


def test_an_incomplete_line_with_a_line_break_is_damaged(tmp_path, caplog):
    assert len(read_records(write(tmp_path, ROW, '{"task": "gq'))) == 1
    assert "line 2 is damaged" in caplog.text


def test_a_row_nested_deeper_than_any_record_is_damaged(tmp_path):
    deep = json.loads("[" * 70 + "]" * 70)
    write(tmp_path, ROW, {**ROW, "sample_id": 8, "reference": deep})
    assert len(read_records(tmp_path)) == 1


def test_the_same_answer_recorded_twice_counts_once(tmp_path):
    assert len(read_records(write(tmp_path, ROW, ROW, {**ROW, "seed_index": 1}))) == 2


@pytest.mark.parametrize("key", ["task", "arm", "sample_id", "response", "score", "kept_tokens"])
def test_a_row_without_a_required_key_is_damaged(tmp_path, caplog, key):
    row = {k: v for k, v in ROW.items() if k != key}
    assert len(read_records(write(tmp_path, ROW, row))) == 1
    assert f"line 2 is damaged (it lacks {key})" in caplog.text


def test_a_response_for_an_evaluation_server_has_no_score(tmp_path):
    assert math.isnan(read_records(write(tmp_path, {**ROW, "score": None})).score[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", 1.5),
        ("score", math.nan),
        ("score", True),
        ("kept_tokens", -1),
        ("kept_tokens", 1.5),
        ("kept_tokens", True),
        ("n_visual", 10**400),
        ("flops_tflop", math.inf),
        ("layer_tokens", "many"),
        ("task", ["gqa"]),
        ("arm", None),
        ("arm_id", ["x"]),
        ("cell", {}),
        ("options", ["x"]),
        ("budget", 16),
        ("version", "two"),
    ],
)
def test_a_row_with_an_impossible_value_is_damaged(tmp_path, caplog, key, value):
    assert len(read_records(write(tmp_path, ROW, {**ROW, "sample_id": 8, key: value}))) == 1
    assert f"line 2 is damaged ({key} is" in caplog.text


@pytest.mark.parametrize("key", VERSION_2)
def test_every_key_of_version_2_has_a_type(tmp_path, caplog, key):
    """Whatever is written into one value: the row is read, or it is named and left out."""
    for value in (None, True, -1, 1.5, math.nan, "x", [], [[1]], {}, {"a": "b"}):
        bad = encode(VERSION_2 | {"sample_id": "2", key: value}).decode().strip()
        if key == "version" and value is None:
            continue
        frame = read_records(write(tmp_path, VERSION_2, bad))
        assert len(frame) in (1, 2)
        assert len(frame) + len(caplog.records) == 2 + (key == "sample_id" and value == "1")
        caplog.clear()


@pytest.mark.parametrize(
    ("name", "read"),
    [("records", read_records), ("timings", read_timings), ("masks", reading.masks)],
)
def test_a_newer_version_is_refused_by_name(tmp_path, name, read):
    write(tmp_path, {**VERSION_2, "version": 3}, name=f"{name}.jsonl")
    with pytest.raises(
        InvalidValueError, match=rf"{name}\.jsonl, line 1: written by a newer zoo_exp \(schema ver"
    ):
        read(tmp_path)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = Record.from_row(VERSION_2)
    assert record.to_row() == VERSION_2
    assert list(record.to_row()) == list(VERSION_2)
    frame = read_records(write(tmp_path, VERSION_2))
    line = frame.to_dict("records")[0]
    assert pd.isna(line.pop("not_applicable"))
    assert line == {key: VERSION_2[key] for key in line}


def test_kept_tokens_and_layer_tokens_are_separate_columns(tmp_path):
    old = {**ROW, "sample_id": 1, "kept_tokens": 144, "layer_tokens": 20.5}
    frame = read_records(write(tmp_path, ROW, old))
    assert frame["kept_tokens"].tolist() == [144, 144]
    assert math.isnan(frame["layer_tokens"][0])
    assert frame["layer_tokens"][1] == 20.5


@pytest.mark.parametrize(
    ("arm", "seed", "row"),
    [
        ("random @16 seed 2", 2, "random @16"),
        ("ours #1", 0, "ours #1"),
        ("x seed 1", 0, "x seed 1"),
        ("x", 1, "x"),
    ],
)
def test_the_row_of_version_1_is_its_label_without_the_suffix_that_it_wrote_itself(tmp_path, arm, seed, row):
    frame = read_records(write(tmp_path, {**ROW, "arm": arm, "seed_index": seed}))
    assert frame[["arm", "row", "seed"]].to_dict("records") == [{"arm": arm, "row": row, "seed": seed}]


def test_records_of_other_arms_are_skipped(tmp_path):
    write(tmp_path, ROW, {**ROW, "arm_id": "other"})
    assert read_records(tmp_path, {"full#0"})["arm_id"].tolist() == ["full#0"]


def test_no_records(tmp_path):
    with pytest.raises(MissingFileError, match="cannot read"):
        read_records(tmp_path)
    write(tmp_path, end="")
    with pytest.raises(MissingFileError, match="contains no records yet"):
        read_records(tmp_path)


def test_timings_are_per_question_and_ignore_the_warm_up(tmp_path):
    batches = [(4, 400.0), (4, 8.0), (4, 12.0), (2, 4.0), (4, 8.0)]
    rows = [
        {"task": "gqa", "arm": "a", "batch_size": n, "select_ms": ms, "prefill_decode_ms": None}
        for n, ms in batches
    ]
    (line,) = read_timings(write(tmp_path, *rows, name="timings.jsonl")).to_dict("records")
    assert line["select_ms"] == 2.0
    assert math.isnan(line["prefill_decode_ms"])


def test_a_run_without_timings_has_none(tmp_path):
    assert read_timings(tmp_path).empty


@pytest.mark.parametrize(
    "bad",
    [
        *({"batch_size": 0}, {"select_ms": -1.0}, {"select_ms": "fast"}, {"task": 3}, {"sample_ids": [1]}),
        *({"arms_in_call": "two"}, {"arms_in_call": -1}),
    ],
)
def test_a_bad_timing_is_reported_and_skipped(tmp_path, caplog, bad):
    good = {"task": "gqa", "arm": "a", "batch_size": 1, "select_ms": 1.0}
    frame = read_timings(write(tmp_path, good, good | bad, name="timings.jsonl"))
    assert frame["select_ms"].tolist() == [1.0]
    assert "timings.jsonl, line 2 is damaged (" in caplog.text


MASK = {
    "task": "gqa", "sample_id": "1", "grid": [2, 2], "image": "masks/x.png",
    "arms": [{"arm": "full", "indices": [0, 3], "response": "red", "score": 1.0}],
}  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        {"grid": [10**6, 10**6]}, {"grid": [2]}, {"grid": [2, True]}, {"arms": [1]}, {"arms": None}, {"image": 3},
        {"arms": [{"arm": "full", "indices": [4]}]}, {"arms": [{"arm": ["full"], "indices": []}]},
        {"arms": [{"arm": "full", "indices": [0], "score": math.inf}]},
    ],
)  # fmt: skip
def test_bad_masks_are_reported_and_skipped(tmp_path, caplog, bad):
    (row,) = reading.masks(write(tmp_path, MASK, MASK | {"sample_id": "2"} | bad, name="masks.jsonl"))
    assert row.arms[0].indices == (0, 3)
    assert "masks.jsonl, line 2 is damaged (" in caplog.text


@pytest.mark.parametrize("name", ["timings", "masks"])
def test_an_unreadable_file_of_timings_or_masks_is_skipped(tmp_path, caplog, name):
    (tmp_path / f"{name}.jsonl").mkdir()
    assert read_timings(tmp_path).empty
    assert reading.masks(tmp_path) == []
    assert f"cannot read {tmp_path / name}.jsonl: Is a directory: it is skipped" in caplog.text


def test_timings_without_times_give_no_pace_of_a_run(tmp_path):
    """Version 1 could lack every time; a run that adds answers to such a folder still reports them."""
    experiment = compose(["selector=[full,zoo]", "budget=16", "task=embedded_gqa", f"out={tmp_path}"])
    experiment.run_dir.mkdir(parents=True)
    rows = [{"task": "embedded_gqa", "arm": arm.label, "batch_size": 2} for arm in experiment.arms]
    write(experiment.run_dir, *rows, name="timings.jsonl")
    assert pipeline._pace(experiment) == ""
    timed = [row | {"vision_ms": 1.0, "spent_ms": 3.0} for row in rows]
    write(experiment.run_dir, *timed, name="timings.jsonl")
    assert "1.8x the time for 2x the answers" in pipeline._pace(experiment)


@pytest.mark.parametrize(
    ("end", "unfinished"), [(b"", False), (b'{"a": 1}', False), (b'{"a": "' + b"x" * 9000, True)]
)
def test_a_file_that_ends_within_a_line_is_told_apart(tmp_path, end, unfinished):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"a": 0}\n' + end)
    assert unfinished_line(path) is unfinished
    assert not unfinished_line(tmp_path / "missing.jsonl")


def test_a_cut_record_is_reported_when_a_run_is_loaded(make_whole_run, caplog):
    run = make_whole_run()
    path = run / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    load_run(run)
    assert f"1 record of {path} is unfinished" in caplog.text

"""Reading what a run left behind, whole or not."""

import json
import math

import pytest

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs.records import read_records, read_timings

ROW = {"task": "gqa", "arm": "full", "sample_id": 7, "response": "red", "score": 1, "kept_tokens": 144}


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


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_ignored(tmp_path, cut):
    torn = json.dumps({**ROW, "sample_id": 8})[:cut]
    assert len(read_records(write(tmp_path, ROW, torn, end=""))) == 1


def test_a_whole_last_line_without_a_line_end_counts(tmp_path):
    assert len(read_records(write(tmp_path, ROW, {**ROW, "sample_id": 8}, end=""))) == 2


@pytest.mark.parametrize("garbage", ["{", "\x00\x00", '"text"', "[1]"])
def test_garbage_in_the_middle_is_named_with_its_line(tmp_path, garbage):
    write(tmp_path, ROW, garbage, {**ROW, "sample_id": 8})
    with pytest.raises(MissingFileError, match=r"records\.jsonl, line 2 is damaged"):
        read_records(tmp_path)


def test_a_line_end_after_garbage_makes_it_damage(tmp_path):
    with pytest.raises(MissingFileError, match="line 2"):
        read_records(write(tmp_path, ROW, '{"task": "gq'))


def test_the_same_answer_recorded_twice_counts_once(tmp_path):
    assert len(read_records(write(tmp_path, ROW, ROW, {**ROW, "seed_index": 1}))) == 2


@pytest.mark.parametrize("key", ["task", "arm", "sample_id", "response", "score", "kept_tokens"])
def test_a_missing_key_is_named(tmp_path, key):
    row = {k: v for k, v in ROW.items() if k != key}
    with pytest.raises(MissingFileError, match=f"line 1 is no record: it lacks {key}"):
        read_records(write(tmp_path, row))


def test_an_answer_that_only_a_server_can_score_has_no_score(tmp_path):
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
    ],
)
def test_impossible_values_are_refused(tmp_path, key, value):
    with pytest.raises(InvalidValueError, match=f"line 1: {key} is"):
        read_records(write(tmp_path, {**ROW, key: value}))


def test_no_records(tmp_path):
    with pytest.raises(MissingFileError, match="cannot read"):
        read_records(tmp_path)
    write(tmp_path, end="")
    with pytest.raises(MissingFileError, match="holds no records yet"):
        read_records(tmp_path)


def test_timings_are_per_question_and_ignore_the_warm_up(tmp_path):
    batches = [(4, 400.0), (4, 8.0), (4, 12.0), (2, 4.0), (4, 8.0)]
    rows = [
        {"task": "gqa", "arm": "a", "batch_size": n, "select_ms": ms, "prefill_decode_ms": None}
        for n, ms in batches
    ]
    (line,) = read_timings(write(tmp_path, *rows, name="timings.jsonl")).to_dict("records")
    assert line["select_ms"] == 2.0
    assert math.isnan(line["generate_ms"])


def test_a_run_without_timings_has_none(tmp_path):
    assert read_timings(tmp_path).empty


def test_a_bad_timing_row_is_named(tmp_path):
    write(tmp_path, {"task": "gqa", "arm": "a", "batch_size": 0, "select_ms": 1.0}, name="timings.jsonl")
    with pytest.raises(MissingFileError, match=r"timings\.jsonl, line 1 is no timing row"):
        read_timings(tmp_path)

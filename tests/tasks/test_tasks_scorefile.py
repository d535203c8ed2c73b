"""Scoring a file: values, intervals, files written, and every bad line named."""

import json

import pytest

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.tasks.scorefile import read_predictions, score_file, write_per_sample

GOOD = {"doc": {"id": "1", "imageId": "n1", "answer": "yes"}, "response": "Yes."}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "predictions.jsonl"


def test_a_file_is_scored_row_by_row(file, tmp_path):
    other = {"doc": {"id": "2", "imageId": "n1", "answer": "no"}, "response": "maybe"}
    scored = score_file(tasks.get("gqa"), write(file, [GOOD, other]))
    assert scored.metrics == {"exact_match": 0.5}
    assert json.loads(scored.to_json()) == {"task": "gqa", "n": 2, "metrics": {"exact_match": 0.5}}
    out = tmp_path / "deep" / "out.jsonl"
    write_per_sample(out, scored)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"sample_id": "1", "image_id": "n1", "score": 1.0},
        {"sample_id": "2", "image_id": "n1", "score": 0.0},
    ]
    assert list(out.parent.iterdir()) == [out]  # no temporary file stays


def test_blank_lines_and_a_missing_last_line_break_are_accepted(file):
    file.write_text(
        "\n" + json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "doc": {**GOOD["doc"], "id": "2"}})
    )
    assert [row.line for row in read_predictions(file)] == [2, 4]


def test_a_byte_order_mark_is_accepted(file):
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n")
    assert len(read_predictions(file)) == 1


def test_separators_inside_strings_do_not_break_lines(file):
    row = {"doc": GOOD["doc"], "response": "a\u2028b\x85c"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert read_predictions(file)[0].response == "a\u2028b\x85c"


def test_rows_without_ids_are_identified_by_their_line(file):
    rows = [{"doc": {"choices": ["a", "b"], "answer": 0}, "response": "A"}] * 3
    assert score_file(tasks.get("scienceqa_img"), write(file, rows)).metrics == {"exact_match": 1.0}
    scored = score_file(tasks.get("gqa"), write(file, [{"doc": {"answer": "a"}, "response": "a"}] * 2))
    assert [row["sample_id"] for row in scored.rows] == ["line 1", "line 2"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b'{"doc": {"id": "2"', r"line 2: not JSON .* incomplete"),
        (b"{nonsense}\n", r"line 2: not JSON \((?!.*incomplete)"),
        (b'["doc"]\n', r"line 2: expected \{\"doc\""),
        (b'{"doc": 3, "response": "a"}\n', r"line 2: expected \{\"doc\""),
        (b'{"doc": {"answer": "a"}}\n', "line 2: the response must be a string, got nothing"),
        (b'{"doc": {"answer": "a"}, "response": 3}\n', "line 2: the response must be a string, got int"),
        (
            b'{"doc": {"answer": "\xff"}, "response": "a"}\n',
            r"line 2: not UTF-8 \(invalid start byte at byte 20\)",
        ),
        (b'{"doc": {"id": "2"}, "response": "a"}\n', "line 2: gqa: the row lacks answer; it has id"),
        (
            b'{"doc": {"id": "2", "answer": 5}, "response": "a"}\n',
            r"line 2: gqa: answer must be a text, got int \(5\)",
        ),
        (b'{"doc": {"id": "1", "answer": "a"}, "response": "a"}\n', "line 2: .* '1' is also used in line 1"),
    ],
)
def test_a_bad_line_is_named(file, second, message):
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + second)
    with pytest.raises(InvalidValueError, match=message):
        score_file(tasks.get("gqa"), file)


def test_no_rows_and_no_file(file, tmp_path):
    file.write_text("\n")
    with pytest.raises(InvalidValueError, match="no rows; each line must be"):
        score_file(tasks.get("gqa"), file)
    with pytest.raises(MissingFileError, match=r"nowhere.jsonl cannot be read: No such file"):
        score_file(tasks.get("gqa"), tmp_path / "nowhere.jsonl")
    with pytest.raises(MissingFileError, match="Is a directory"):
        score_file(tasks.get("gqa"), tmp_path)


def test_an_mme_row_without_its_pair_is_named(file):
    def row(image, question):
        doc = {"question_id": image, "question": question, "answer": "Yes", "category": "color"}
        return {"doc": doc, "response": "yes"}

    rows = [row("color/1.png", "a"), row("color/1.png", "b"), row("color/2.png", "a")]
    with pytest.raises(InvalidValueError, match=r"line 3: MME: image 'color/2.png' of color has 1 question"):
        score_file(tasks.get("mme"), write(file, rows))
    scored = score_file(tasks.get("mme"), write(file, rows[:2]))
    assert scored.metrics == {"mme_perception_score": 200.0, "mme_total_score": 200.0}
    assert scored.breakdown == {"color": {"score": 200.0, "acc": 100.0, "acc_plus": 100.0}}

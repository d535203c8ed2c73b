"""Rows of data sets and predictions are untrusted: every column has a type, and one bad value is one line."""

import json
import random

import pytest

from zoo_exp import tasks
from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.check import check_row
from zoo_exp.tasks.data import load
from zoo_exp.tasks.scorefile import score_file

FAMILIES = ("gqa", "pope", "mme", "mmbench", "mmmu", "scienceqa", "seedbench", "textvqa", "vqav2")
TEXTS = ["", "x", "[" * 200 + "]" * 200, "[" * 100_000, "[1, {}]", "\x1b[31m"]
LISTS = [[], [1], ["a"] * 99, [None], [{"answer": 5}], [[]]]
STRANGE = [None, True, 5, -1, 1.5, float("nan"), 10**30, {}, {"answer": "a"}, *TEXTS, *LISTS]


def rows_of(family):
    """A unit of the embedded benchmark: rows in the official columns, without images."""
    task = tasks.get(f"embedded_{family}")
    return task, [
        {k: v for k, v in row.items() if k not in ("image", "row", "image_1")} for row in load(task, None, 1)
    ]


def predictions(path, rows, response="A"):
    path.write_text("".join(json.dumps({"doc": row, "response": response}) + "\n" for row in rows))
    return path


def refusal(call):
    """The one line that refuses, "" where nothing is; anything else fails."""
    try:
        call()
    except ZooExpError as error:
        assert "\n" not in str(error)  # noqa: PT017 - whether it is raised depends on the value
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name", [name for name in tasks.available() if name.startswith("embedded_") or "world2" in name]
)
def test_our_own_rows_have_the_types_that_are_asked_for(name):
    task = tasks.get(name)
    for row in load(task, None, 3).texts():
        check_row(task, row)


def test_the_types_name_every_scored_column():
    for name in tasks.available():
        task = tasks.get(name)
        assert set(task.scored_columns) <= set(task.kinds), name
        assert not {kind for kind in task.kinds if kind.startswith("image_") and kind[6:].isdigit()}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_every_column_is_scored_or_refused_in_one_line(family, tmp_path):
    task, rows = rows_of(family)
    refused = set()
    for column in [*task.kinds, "row", "scene"]:
        for value in STRANGE:
            changed = [{**row, column: value} for row in rows]
            # Rows of a unit need different ids; the same value in an id column is refused as that.
            path = predictions(tmp_path / "p.jsonl", changed)
            message = refusal(lambda path=path: score_file(task, path))
            if message:
                refused.add(column)
            if column in rows[0]:
                refusal(lambda row=changed[0]: check_row(task, {**row, "row": 0}))
    assert set(task.scored_columns) <= refused


@pytest.mark.parametrize(
    ("family", "column", "value"),
    [
        ("vqav2", "answers", {"answer": "yes"}),
        ("textvqa", "answers", "yes"),
        ("textvqa", "answers", ["yes", 5]),
        ("pope", "category", None),
        ("pope", "category", ["a"]),
        ("mmmu", "question_type", None),
        ("mmmu", "question_type", "multiple choice"),
        ("mmmu", "options", "[" * 300 + "]" * 300),
        ("mmmu", "options", [[1]]),
        ("scienceqa", "choices", "ab"),
        ("scienceqa", "choices", ["a"] * 27),
        ("scienceqa", "answer", True),
        ("seedbench", "data_type", 5),
        ("mmbench", "index", "first"),
        ("mmbench", "L2-category", []),
        ("mme", "question_id", 1.5),
        ("gqa", "id", None),
        ("gqa", "answer", 5),
    ],
)
def test_wrong_types_are_not_taken_in_silence(family, column, value, tmp_path, capsys):
    task, rows = rows_of(family)
    path = predictions(tmp_path / "p.jsonl", [{**row, column: value} for row in rows])
    with pytest.raises(InvalidValueError, match=rf"p\.jsonl, line 1: .*{column}") as caught:
        score_file(task, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidValueError, match=column):
        check_row(task, {**rows[0], column: value})
    assert main(["score", task.name, str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"doc": ' + "[" * 100_000 + "]" * 100_000 + ', "response": "a"}', "nested too deeply"),
        ('{"doc": {"answer": "a", "x": ' + "[" * 90 + "]" * 90 + '}, "response": "a"}', "nested too deeply"),
        (r'{"doc": {"id": "\ud800", "answer": "a"}, "response": "a"}', "lone surrogate"),
        (r'{"doc": {"id": "1", "answer": "a"}, "response": "\udfff"}', "lone surrogate"),
        ('{"doc": {"id": ' + "9" * 10_000 + ', "answer": "a"}, "response": "a"}', "not JSON"),
    ],
)
def test_lines_that_could_not_be_written_again_are_refused(line, message, tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    path.write_text(line + "\n")
    assert main(["score", "gqa", str(path), "--per-sample", str(tmp_path / "out.jsonl")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_random_rows_are_scored_or_refused_in_one_line(tmp_path):
    generator = random.Random(0)
    refused = 0
    for turn in range(200):
        task, rows = rows_of(FAMILIES[turn % len(FAMILIES)])
        for row in rows:
            for column in generator.sample(sorted(row), 2):
                row[column] = generator.choice(STRANGE)
        path = predictions(tmp_path / "p.jsonl", rows, generator.choice(["A", "", "yes", "\x00", "\u202e"]))
        refused += bool(refusal(lambda task=task, path=path: score_file(task, path)))
    assert refused > 100

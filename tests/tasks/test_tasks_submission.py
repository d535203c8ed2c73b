"""Files for the servers."""

import json
import zipfile
from xml.etree import ElementTree

import pytest

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.submission_files import write_submission, write_submissions
from zoo_exp.tasks.xlsx import workbook

NS = {"s": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


def cells(path):
    """The sheet as a list of {column letter: text}."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))  # every part is well-formed
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    return [
        {cell.get("r").rstrip("0123456789"): "".join(cell.itertext()) for cell in row.findall("s:c", NS)}
        for row in sheet.iter(f"{{{NS['s']}}}row")
    ]


def rows_of(task, docs, responses):
    return [
        {"sample_id": task.sample_id(doc), **task.score(doc, response)}
        for doc, response in zip(docs, responses, strict=True)
    ]


def test_vqav2_lists_every_question_of_the_test_split(tmp_path):
    task = tasks.get("vqav2_testdev")
    rows = rows_of(task, [{"question_id": 7}, {"question_id": 3}], ["Yes. ", ""])
    path = write_submission(task, rows, tmp_path, "answers", other_ids=[5, 7])
    assert json.loads(path.read_text()) == [
        {"question_id": 3, "answer": ""},
        {"question_id": 5, "answer": ""},
        {"question_id": 7, "answer": "Yes."},
    ]
    assert task.aggregate(rows) == {"submission": 2.0}
    assert rows[0]["score"] is None


def test_textvqa_answers_are_normalised(tmp_path):
    task = tasks.get("textvqa_val")
    rows = rows_of(task, [{"question_id": 1, "answers": ["x"] * 10}], ["The Two dogs."])
    path = write_submission(task, rows, tmp_path, "answers")
    assert json.loads(path.read_text()) == [{"question_id": 1, "answer": "2 dogs"}]


def test_mmbench_table_has_the_questions_and_the_predictions(tmp_path):
    task = tasks.get("mmbench_en_test")
    doc = {
        "question": 'a < b & "c"?',
        "hint": None,
        "A": " yes",
        "B": "no\n",
        "C": None,
        "D": "nan",
        "category": "x",
    }
    docs = [{**doc, "index": 1_000_002}, {**doc, "index": 2, "L2-category": "l"}]
    path = write_submission(task, rows_of(task, docs, ["B", "\x00A_x0041_ \ud800"]), tmp_path, "table")
    assert path.name == "table.xlsx"
    head, first, second = cells(path)
    assert list(head.values()) == [
        "index", "question", "hint", "A", "B", "C", "D", "prediction",
        "category", "source", "L2-category", "split",
    ]  # fmt: skip
    assert first == {
        "A": "2", "B": 'a < b & "c"?', "D": " yes", "E": "no\n", "G": "nan",
        "H": "A_x0041_ ", "I": "x", "K": "l",
    }  # fmt: skip
    assert (second["A"], second["H"]) == ("1000002", "B")


def test_equal_rows_give_equal_files():
    assert workbook(["a"], [["b"], [1]]) == workbook(["a"], [["b"], [1]])


def test_tasks_without_a_server_and_no_rows_are_refused(tmp_path):
    with pytest.raises(InvalidValueError, match="gqa has no submission file; tasks with one: vqav2_testdev"):
        write_submission(tasks.get("gqa"), [{}], tmp_path, "x")
    with pytest.raises(InvalidValueError, match="no rows for the submission file"):
        write_submission(tasks.get("vqav2_testdev"), [], tmp_path, "x")
    assert not list(tmp_path.iterdir())


def record(task, arm, sample_id, parts):
    return {"task": task, "arm": arm, "sample_id": sample_id, "parts": parts}


def test_a_run_gets_a_file_per_task_with_a_server_and_arm(tmp_path):
    folder = tmp_path / "submissions"
    records = [
        record(
            "vqav2_testdev", arm, number, {"score": None, "question_id": number, "answer": f"{arm} {number}"}
        )
        for arm in ("full", "zoo @64", "zoo_@64")
        for number in (2, 1)
    ]
    records.append(record("gqa", "full", 1, {"score": 1.0}))
    known = [tasks.get("gqa"), tasks.get("vqav2_testdev"), tasks.get("textvqa_val")]
    paths = write_submissions(known, records, folder)
    assert [path.name for path in paths] == [
        "vqav2_testdev_full.json", "vqav2_testdev_zoo__64.json", "vqav2_testdev_zoo__64_2.json",
    ]  # fmt: skip
    assert [json.loads(path.read_text())[0] for path in paths] == [
        {"question_id": 1, "answer": f"{arm} 1"} for arm in ("full", "zoo @64", "zoo_@64")
    ]
    assert len(list(folder.iterdir())) == 3


def test_a_run_without_such_tasks_writes_nothing(tmp_path):
    assert write_submissions([tasks.get("gqa")], [record("gqa", "full", 1, {})], tmp_path / "x") == []
    assert not (tmp_path / "x").exists()

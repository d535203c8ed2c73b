"""A task from a user's own file: `task=my.jsonl`, or .csv, or .parquet."""

import json
import os
import re

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from zoo_exp import cli, tasks
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.report.runs import results_of
from zoo_exp.runs.load import load_run
from zoo_exp.tasks import data, own_files
from zoo_exp.tasks.check import check

QUICK = ("selector=full", "logger=none")
ROW = {"image": "img/red.png", "question": "Which colour?", "answer": "red"}
OPTIONS = {**ROW, "options": ["blue", "red"], "answer": "B"}
ANSWERS = {"image": "img/red.png", "question": "Which colour?", "answers": ["red", "Red", "red.", "blue"]}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with an image below it and one beside it."""
    (tmp_path / "here" / "img").mkdir(parents=True)
    Image.new("RGB", (8, 6), "red").save(tmp_path / "here" / "img" / "red.png")
    Image.new("RGB", (8, 6)).save(tmp_path / "outside.png")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(own_files, "_opened", {})
    return tmp_path / "here"


def write(name, *rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def given(*rows, metric=""):
    return tasks.given(write("my.jsonl", *rows) + metric)


def test_every_format_gives_the_same_questions(folder):
    rows = [{**OPTIONS, "id": "a", "group": "x"}, {**OPTIONS, "id": "b", "group": "y", "answer": "blue"}]
    write("a.jsonl", *rows)
    options, head = '"[""blue"", ""red""]"', "id,image,question,options,answer,group"
    cells = [
        f"{row['id']},img/red.png,Which colour?,{options},{row['answer']},{row['group']}" for row in rows
    ]
    (folder / "b.csv").write_bytes("\r\n".join(["\ufeff" + head, *cells]).encode())
    parquet.write_table(pa.Table.from_pylist(rows), "c.parquet")
    image = {"bytes": (folder / "img/red.png").read_bytes(), "path": None}
    parquet.write_table(pa.Table.from_pylist([{**row, "image": image} for row in rows]), "d.parquet")
    shown = []
    for name in ("a.jsonl", "b.csv", "c.parquet", "d.parquet"):
        task = tasks.given(name)
        loaded = data.load(task)
        shown.append(
            [
                (task.sample_id(row), task.prompt(row, "llava"), task.reference(row), task.images(row)[0].size,
                 task.score(row, "B"))
                for row in loaded
            ]
        )  # fmt: skip
        assert check(task).decoded == 2
    assert shown[0] == shown[1] == shown[2] == shown[3]
    assert shown[0][0] == (
        "a",
        "Which colour?\nA. blue\nB. red\nAnswer with the option's letter from the given choices directly.",
        "B. red",
        (8, 6),
        {"score": 1.0, "group": "x"},
    )
    assert shown[0][1][-1] == {"score": 0.0, "group": "y"}


@pytest.mark.parametrize(
    ("row", "metric", "scores"),
    [
        (ROW, "exact_match", {"red": 1, "Red.": 1, "": 0, "dark red": 0}),
        ({**ROW, "answer": 3}, "exact_match", {"3": 1, "three": 0}),
        ({**ROW, "answer": 1234567.0}, "exact_match", {"1234567": 1}),
        ({**ROW, "answer": 0.5}, "exact_match", {"0.5": 1}),
        (ANSWERS, "vqa_accuracy", {"red": 0.75 * 2 / 3 + 0.25, "blue": 0.25, "green": 0}),
        ({**ANSWERS, "answers": ["cat", "kitten"]}, ":exact_match", {"Kitten": 1, "dog": 0}),
        (OPTIONS, "multiple_choice", {"B": 1, "b": 1, "B.": 1, "(B)": 1, "B. red": 1, "Red": 1, "red.": 1,
                                      "A": 0, "blue": 0, "Because it is red": 0, "": 0}),
        ({**OPTIONS, "answer": "red"}, "multiple_choice", {"B": 1, "A": 0}),
        (OPTIONS, ":exact_match", {"B": 1, "red": 0}),
    ],
)  # fmt: skip
def test_metrics(row, metric, scores):
    task = given(row, metric=metric if metric[0] == ":" else "")
    assert task.source.config == metric.lstrip(":")
    (doc,) = data.load(task)
    for response, score in scores.items():
        assert task.score(doc, response)["score"] == pytest.approx(score), response
    assert task.aggregate([{"sample_id": "1", **task.score(doc, next(iter(scores)))}]) == {
        "accuracy": pytest.approx(next(iter(scores.values())))
    }


def test_a_response_that_names_no_option_is_marked():
    task = given(OPTIONS)
    (doc,) = data.load(task)
    responses = ("B", "A", "blue", "Red.", "B. red", "", "zzz", "Z", "7")
    marked = {text for text in responses if task.score(doc, text).get("unreadable")}
    assert marked == {"", "zzz", "Z", "7"}


def test_a_run_asks_it_and_the_report_needs_no_file(folder, capsys):
    write("my.jsonl", *({**ROW, "group": "g"} for _ in range(3)), {**ROW, "answer": "blue"})
    assert cli.main(["run", "task=my.jsonl", "selector=[full,blind]", "logger=none", "out=runs"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "my.jsonl: words that embedded does not know: colour" in out
    assert out.count("a photograph needs model=NAME") == 1
    assert "no retained average, because full scores 0 in my.jsonl" in out
    assert "increase the limit" not in out
    (results,) = folder.glob("runs/custom/*/results.json")
    text = (results.parent / "records.jsonl").read_text()
    assert text.count('"task": "my.jsonl"') == 8
    assert str(folder) not in text
    own_files._opened.clear()
    # Its images are found in the current folder, as `masks` on an earlier run needs them.
    task = tasks.get("my.jsonl")
    assert [task.images(row)[0].size for row in data.load(task)] == [(8, 6)] * 4
    os.remove("my.jsonl")
    with pytest.raises(MissingFileError, match=r"the file of task my.jsonl is not in the current folder"):
        data.load(task)
    frame = results_of(load_run(results.parent), draws=20).frame
    assert frame.set_index(["arm", "task"]).loc[("full", "my.jsonl"), "metric"] == "accuracy"


def test_the_identity_holds_the_content_and_the_metric_but_not_the_folder(folder, monkeypatch):
    def cell(*texts):
        (found,) = compose([*texts, *QUICK]).cells()
        return found.id

    write("my.jsonl", ANSWERS)
    first = cell("task=my.jsonl")
    assert cell(f"task={folder}/my.jsonl") == first
    assert cell("task=my.jsonl", "task.metric=vqa_accuracy") == first
    assert cell("task=my.jsonl:exact_match") == cell("task=my.jsonl", "task.metric=exact_match") != first
    write("my.jsonl", {**ANSWERS, "question": "Which color?"})
    assert cell("task=my.jsonl") != first


def test_images_may_also_be_below_data_root(folder):
    (folder / "my").mkdir()
    write("my/my.jsonl", ROW)
    task = tasks.given("my/my.jsonl")
    with pytest.raises(MissingFileError, match=r"my.jsonl, line 1: no image file 'img/red.png' below"):
        data.check_images(task, None, None)
    data.check_images(task, folder, None)
    assert task.images(data.load(task, folder)[0])[0].size == (8, 6)


def test_ids_and_images_of_rows():
    task = given(ROW, {**ROW, "id": 7}, {**ROW, "image_id": "one"})
    loaded = data.load(task)
    assert [task.sample_id(row) for row in loaded] == ["1", "7", "3"]
    assert [task.image_name(row) for row in loaded] == ["img/red.png", "img/red.png", "one"]
    assert len(data.load(task, limit=2)) == 2
    assert len(data.load(task, limit=100)) == 3  # a default limit of a model may be larger than a file


def line(text):
    return (json.dumps(ROW) + "\n" + text + "\n").encode()


BAD = {
    "empty file": (b"", "my.jsonl has no rows: a task file has the columns image, question, and answer"),
    "blank lines only": (b"\n\r\n \n", "my.jsonl has no rows"),
    "not json": (line("{'image': 1}"), "my.jsonl, line 2: not JSON"),
    "an array": (line("[1]"), r"my.jsonl, line 2: not a JSON object; one object per line is expected, got '\[1\]'"),
    "cut off": (line('{"image": "a'), "my.jsonl, line 2: not JSON"),
    "column names with line breaks": ({"image": "a", "b\nc\x1b": 1}, r"the row has image, b\?c\?\)"),
    "a huge number": ({**ROW, "id": 10**30, "answer": 10**400, "question": 1}, "line 2: question must be a text"),
    "too deep": (line('{"a": ' + "[" * 9999 + "]" * 9999 + "}"), "my.jsonl, line 2: nested too deeply"),
    "surrogate": (line('{"question": "\\ud800"}'), "my.jsonl, line 2: text with a lone surrogate"),
    "not utf-8": (line("").rstrip() + b'\n{"a": "\xff"}\n', "my.jsonl, line 2: not UTF-8"),
    "no question": ({"image": "a", "answer": "b"}, "line 2: question is missing or empty .*the row has image, answer"),
    "no image, null answer": ({"question": "a", "answer": None}, "line 2: image and answer are missing or empty"),
    "no answer": ({"image": "a", "question": "b"}, "line 2: answer is missing or empty"),
    "question of another kind": ({**ROW, "question": ["a"]}, "line 2: question must be a text, got"),
    "answer of another kind": ({**ROW, "answer": True}, "line 2: answer must be a text, got True"),
    "image of another kind": ({**ROW, "image": 3}, "line 2: image must be the path of a file, got int"),
    "image on the web": ({**ROW, "image": "https://a.b/c.png"}, "line 2: images are not downloaded"),
    "id of another kind": ({**ROW, "id": 1.5}, "line 2: id must be a text or a whole number"),
    "id twice": ({**ROW, "id": 1}, "line 2: the id '1' is also used in line 1; ids must be unique"),
}  # fmt: skip
CHOICE = {
    "options without answer": ({"options": ["a"], "answer": None}, "line 1: answer is missing or empty"),
    "no such letter": (
        {"answer": "C"},
        r"line 1: answer 'C' is neither an option nor an option's letter \(A to B\)",
    ),
    "a number": ({"answer": 1}, "line 1: answer must be a text, got 1"),
    "options of another kind": ({"options": "a, b"}, "line 1: options must be a list of 1 to 26 texts"),
    "no options": ({"options": []}, "line 1: options must be a list of 1 to 26 texts"),
    "too many": ({"options": ["x"] * 27}, "line 1: options must be a list of 1 to 26 texts"),
    "an option twice": ({"options": ["a", "a"], "answer": "a"}, "line 1: several options are 'a'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_by_line(folder, case, capsys):
    content, message = BAD[case]
    (folder / "my.jsonl").write_bytes(content if isinstance(content, bytes) else line(json.dumps(content)))
    refused(message, capsys)


@pytest.mark.parametrize("case", CHOICE)
def test_bad_options_are_named_by_line(case, capsys):
    change, message = CHOICE[case]
    write("my.jsonl", {**OPTIONS, **change})
    refused(message, capsys)


def refused(message, capsys, name="my.jsonl", kind=InvalidValueError):
    """In Python, by `run` and by `data check`: one line, exit code 2."""
    with pytest.raises(kind, match=message) as caught:
        compose([f"task={name}", *QUICK])
    assert "\n" not in str(caught.value)
    assert cli.main(["data", "check", name]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image;question;answer\r\na;b;c\r\n", "my.csv, line 1: the columns must be separated by commas"),
        ("image,question\r\na,b\r\n", "my.csv, line 2: answer is missing or empty"),
        ("image,question,answer\r\na,\"b\nc\",d\r\na,b,c,d\r\n", "my.csv, line 4: 4 cells, but 3 columns; quote text"),
        ("image,question,answer\r\na,b\r\n", "my.csv, line 2: answer is missing"),
        ("image,image,answer\r\n", "my.csv, line 1: the column image occurs twice"),
        ("image,question,options\r\na,b,\"c, d\"\r\n", "my.csv, line 2: options must be a JSON list such as"),
        ("image,question,answer\r\na,\"b\"c,d\r\n", "my.csv, line 2: no valid CSV"),
        ("image,question,answer\r\n", "my.csv has no rows"),
        ("", "my.csv has no rows"),
    ],
)  # fmt: skip
def test_bad_tables_are_named_by_line(folder, text, message, capsys):
    (folder / "my.csv").write_bytes(text.encode())
    refused(message, capsys, "my.csv")


def test_a_csv_in_another_encoding_is_named_by_line(folder, capsys):
    (folder / "my.csv").write_bytes("image,question,answer\na,b,c\na,b,é\n".encode("latin-1"))
    refused("my.csv, line 3: not UTF-8 .*save the table as CSV UTF-8", capsys, "my.csv")


def test_bad_parquet_files(folder, capsys):
    (folder / "my.parquet").write_bytes(b"PAR1")
    refused("my.parquet is no readable parquet file", capsys, "my.parquet", MissingFileError)
    parquet.write_table(pa.Table.from_pylist([ROW, {**ROW, "question": None}]), "my.parquet")
    refused("my.parquet, row 1: question is missing or empty", capsys, "my.parquet")
    parquet.write_table(pa.Table.from_pylist([{"question": "a", "answer": "b"}]), "other.parquet")
    refused("other.parquet, row 0: image is missing or empty", capsys, "other.parquet")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("img/blue.png", "my.jsonl, line 2: no image file 'img/blue.png' below .*; check the path"),
        ("../outside.png", "my.jsonl, line 2: the image path '../outside.png' leads out of the data folder"),
        ("/etc/hostname", "my.jsonl, line 2: the image path '/etc/hostname' leads out of the data folder"),
        ("link.png", "my.jsonl, line 2: the image path 'link.png' leads out of the data folder"),
        ("text.png", "my.jsonl, line 2: the image cannot be decoded"),
    ],
)
def test_images_that_cannot_be_read_are_named_by_line(folder, image, message, capsys):
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "text.png").write_text("no image")
    write("my.jsonl", ROW, {**ROW, "image": image})
    for command in (["data", "check", "my.jsonl"], ["run", "task=my.jsonl", *QUICK, "out=runs"]):
        assert cli.main(command) == 2
        assert re.search(message, capsys.readouterr().err)


def test_names_of_files(folder):
    with pytest.raises(MissingFileError, match=r"task file no.jsonl cannot be read: No such file"):
        compose(["task=no.jsonl", *QUICK])
    (folder / "dir.jsonl").mkdir()
    with pytest.raises(MissingFileError, match=r"task file dir.jsonl is no file"):
        compose(["task=dir.jsonl", *QUICK])
    write("my.jsonl", ROW)
    with pytest.raises(UnknownNameError, match=r"metric of a task file 'exact'. Did you mean 'exact_match'"):
        compose(["task=my.jsonl", "task.metric=exact", *QUICK])
    with pytest.raises(InvalidValueError, match=r"task.metric=exact_match is for task files"):
        compose(["task=gqa", "task.metric=exact_match", *QUICK])
    with pytest.raises(
        UnknownNameError, match=r"unknown config key 'task.metrc'. Did you mean 'task.metric'"
    ):
        compose(["task=my.jsonl", "task.metrc=exact_match", *QUICK])
    with pytest.raises(UnknownNameError, match=r"unknown task 'my.json'.*task=FILE.jsonl"):
        compose(["task=my.json", *QUICK])
    (folder / "sub").mkdir()
    write("sub/my.jsonl", ROW)
    with pytest.raises(InvalidValueError, match="have one name, which tables would confuse: rename one"):
        compose(["task=[my.jsonl,sub/my.jsonl]", *QUICK])


def test_vqa_accuracy_wants_annotators():
    with pytest.raises(
        InvalidValueError, match=r"line 1: VQA accuracy needs the answers of at least 4 .*exact_match"
    ):
        given({**ANSWERS, "answers": ["a", "b"]})
    with pytest.raises(InvalidValueError, match="line 1: answers is an empty list"):
        given({**ANSWERS, "answers": []}, metric=":exact_match")


def test_responses_of_another_system_are_scored(folder, capsys):
    write("my.jsonl", ROW)
    write("answers.jsonl", {"doc": ROW, "response": "Red"}, {"doc": ROW, "response": "blue"})
    assert cli.main(["score", "my.jsonl", "answers.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"task": "my.jsonl", "n": 2, "metrics": {"accuracy": 0.5}}

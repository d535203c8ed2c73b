"""`score`: output, files, and errors with line numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_exp.cli import main

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "scoring"
FILES = {
    "gqa": "gqa",
    "vqav2_val": "vqav2_val",
    "textvqa_val": "textvqa_val",
    "scienceqa_img": "scienceqa_img",
    "pope": "pope",
    "mme": "mme",
    "mmbench_en_dev_static": "mmbench_en_dev",
    "seedbench": "seedbench",
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pope(number, response="yes", answer="yes"):
    doc = {"question_id": str(number), "question": "Is it?", "answer": answer, "category": "random"}
    return {"doc": doc, "response": response}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "predictions.jsonl"


def golden(name):
    content = json.loads((GOLDEN / f"{FILES[name]}.json").read_text())
    wanted = content["aggregate"]
    wanted = wanted.get("all", wanted)
    if "static" in wanted:
        wanted = {"gpt_eval_score": wanted["static"]["score"]}
    rows = [{"doc": case["doc"], "response": case["response"]} for case in content["cases"]]
    return rows, {key: value for key, value in wanted.items() if key != "n"}


@pytest.mark.parametrize("name", FILES)
def test_json_gives_the_references_numbers_and_nothing_else(name, file, capsys):
    rows, wanted = golden(name)
    assert main(["score", name, write(file, rows), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.endswith("}\n")
    printed = json.loads(captured.out)
    assert list(printed) == ["task", "n", "metrics"]
    assert (printed["task"], printed["n"]) == (name, len(rows))
    metrics = {key: value for key, value in printed["metrics"].items() if key in wanted}
    assert metrics == pytest.approx(wanted, abs=1e-9)
    assert set(printed["metrics"]) - set(wanted) <= {"mme_total_score"}  # ours: papers call it P+C


def test_score_prints_values_intervals_and_groups(file, capsys):
    assert main(["score", "pope", write(file, [pope(1), pope(2, "no"), pope(3, "no", "no")])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pope: 3 responses, scale 0-1"
    accuracy = next(line for line in lines if line.startswith("pope_accuracy"))
    value, low, _, high = accuracy.split()[1:5]
    assert value == "0.6667"
    assert float(low) <= 0.6667 <= float(high)
    assert any(line.startswith("random") for line in lines)  # the category


def test_score_counts_responses_without_an_answer(file, capsys):
    """`yes, it is` scores as wrong in POPE, as in the reference: the first line says why the accuracy is low."""
    assert main(["score", "pope", write(file, [pope(1), pope(2, "yes, it is"), pope(3, "")])]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "pope: 3 responses (2 without yes or no), scale 0-1"


def test_scores_per_sample_are_written_beside_what_is_printed(file, tmp_path, capsys):
    out = tmp_path / "deep" / "scores.jsonl"
    command = ["score", "pope", write(file, [pope(1), pope(2, "no")]), "--json", "--per-sample", str(out)]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["sample_id"], row["score"]) for row in rows] == [("random/1", 1.0), ("random/2", 0.0)]


def test_a_submission_file_is_written(file, tmp_path, capsys):
    rows = [{"doc": {"question_id": 5}, "response": "Two dogs"}]
    command = ["score", "vqav2_testdev", write(file, rows), "--submission", str(tmp_path / "out")]
    assert main(command) == 0
    written = tmp_path / "out" / "vqav2_testdev.json"
    assert json.loads(written.read_text()) == [{"question_id": 5, "answer": "Two dogs"}]
    out = capsys.readouterr().out
    assert f"submission file: {written}" in out
    assert "its reference answers are not public" in out
    assert "scale" not in out
    assert "interval" not in out


MME = {"doc": {"question_id": "color/1.png", "question": "a", "answer": "Yes", "category": "color"}}


@pytest.mark.parametrize(
    ("task", "lines", "words"),
    [
        ("popes", [pope(1)], ["unknown task 'popes'", "'pope'"]),
        ("pope", [pope(1), {"doc": {"question_id": "2"}, "response": "a"}], ["line 2", "lacks answer"]),
        ("pope", [pope(1), {**pope(2), "response": 3}], ["line 2", "must be a string, got int"]),
        ("pope", [pope(1), {**pope(2), "response": None}], ["line 2", "must be a string, got NoneType"]),
        ("pope", [pope(1), {"doc": pope(2)["doc"]}], ["line 2", "must be a string, got nothing"]),
        ("pope", [pope(1), {"response": "yes"}], ["line 2", 'expected {"doc"']),
        ("pope", [pope(1), pope(2), pope(1)], ["line 3", "'random/1'", "line 1"]),
        ("mme", [{**MME, "response": "yes"}], ["line 1", "'color/1.png' of color has 1 question"]),
        ("pope", [], ["no rows"]),
        ("gqa", [{"doc": {"answer": "a"}, "response": "a"}, 7], ["line 2", 'expected {"doc"']),
    ],
)
def test_a_bad_file_is_one_message_with_its_line_and_exit_code_2(task, lines, words, file, tmp_path, capsys):
    out = tmp_path / "scores.jsonl"
    assert main(["score", task, write(file, lines), "--json", "--per-sample", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(pope(1)).encode() + b'\n{"doc": {"answer": "\xff"}}\n', ["line 2", "not UTF-8"]),
        (json.dumps(pope(1)).encode() + b'\n{"doc": {"question_id"', ["line 2", "incomplete"]),
        (b"PK\x03\x04\x00nonsense", ["line 1", "not JSON"]),
    ],
)
def test_a_file_of_bad_bytes_is_named(content, words, file, capsys):
    file.write_bytes(content)
    assert main(["score", "pope", str(file)]) == 2
    err = capsys.readouterr().err
    assert str(file) in err
    for word in words:
        assert word in err


def test_a_missing_file_and_bad_outputs(file, tmp_path, capsys):
    assert main(["score", "pope", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "nowhere.jsonl cannot be read" in capsys.readouterr().err
    write(file, [pope(1)])
    before = file.read_bytes()
    assert main(["score", "pope", str(file), "--per-sample", str(file)]) == 2
    assert "would overwrite the predictions" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main(["score", "pope", str(file), "--per-sample", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["score", "pope", str(file), "--submission", str(tmp_path)]) == 2
    assert "pope has no submission file; tasks with one: vqav2_testdev" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["score"], ["score", "pope"], ["score", "pope", "a", "b"]])
def test_argparse_refuses_a_wrong_number_of_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_scoring_needs_neither_torch_nor_a_model(file):
    heavy = ["torch", "transformers", "lightning", "datasets", "pandas"]
    code = (
        "import sys; from zoo_exp.cli import main\n"
        f"main(['score', 'pope', {write(file, [pope(1)])!r}])\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"

"""Names, descriptions, and what every task must do."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from io import BytesIO

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.tasks.data import load
from zoo_exp.tasks.gqa import GQA

EMBEDDED = [name for name in tasks.available() if name.startswith("embedded_")]
OFFICIAL = {
    "embedded_gqa": "gqa",
    "embedded_vqav2": "vqav2_val",
    "embedded_textvqa": "textvqa_val",
    "embedded_scienceqa": "scienceqa_img",
    "embedded_pope": "pope",
    "embedded_mme": "mme",
    "embedded_mmbench": "mmbench_en_dev_static",
    "embedded_mmmu": "mmmu_val",
    "embedded_seedbench": "seedbench_image",
}


def test_every_name_leads_to_its_task():
    for name in tasks.available():
        assert tasks.get(name).name == name
    # The other direction: no task that a module defines is left out.
    targets = tasks.REGISTRY.built_in
    for target in set(targets.values()):
        file = import_module(target.removesuffix(":TASKS"))
        assert {task.name for task in file.TASKS} == {
            name for name, where in targets.items() if where == target
        }


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"unknown task 'popee'. Did you mean 'pope'\?.*list tasks"):
        tasks.get("popee")


def test_descriptions_have_name_metric_and_purpose():
    lines = tasks.describe()
    hidden = [
        n for n in tasks.available() if n.startswith("world2") and n.endswith(("_validation", "_confirm"))
    ]
    assert len(hidden) == 54
    assert [line.name for line in lines] == [name for name in tasks.available() if name not in hidden]
    assert all(line.metric and 10 < len(line.summary) < 110 for line in lines)
    assert {line.name: line.metric for line in lines}["mme"] == "mme_total_score"


def test_names_and_scores_need_no_heavy_import():
    program = (
        "import sys, zoo_exp.tasks as t; t.available(); t.describe();"
        "t.get('gqa').score({'answer': 'a'}, 'a');"
        "heavy = 'torch datasets lightning transformers torchmetrics numpy PIL pyarrow'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_benchmarks_are_the_official_classes_on_other_rows(name):
    inside, official = tasks.get(name), tasks.get(OFFICIAL[name])
    assert type(inside) is type(official)
    assert inside.source.kind == "embedded"
    assert inside.source.config == official.family


@dataclass(frozen=True)
class Colours(GQA):
    """A user's benchmark with the prompt and the scoring of GQA."""

    name: str = "colours"
    source: tasks.DataSource = tasks.DataSource("me/colours", "test")  # noqa: RUF009 - a frozen value


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(tasks.REGISTRY, "_added", {})


def test_an_own_task_is_registered_by_decorator(own, tmp_path):
    assert tasks.register(Colours) is Colours
    assert tasks.get("colours") == Colours()
    assert "colours" in [line.name for line in tasks.describe()]
    picture = BytesIO()
    Image.new("RGB", (6, 4), "red").save(picture, "png")
    row = {
        "id": "1",
        "imageId": "1",
        "question": "Colour?",
        "answer": "red",
        "image": {"bytes": picture.getvalue()},
    }
    (tmp_path / "colours").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "colours" / "test.parquet")
    (loaded,) = load(tasks.get("colours"), tmp_path)
    assert tasks.get("colours").score(loaded, "Red.")["score"] == 1


def test_an_own_task_runs_by_its_name(own):
    from zoo_exp.config import compose

    tasks.register(GQA("greens", tasks.DataSource("me/greens", "test")))
    experiment = compose(["model=embedded", "task=greens", "selector=full"])
    assert [cell.task for cell in experiment.cells()] == ["greens"]


def test_an_installed_task_is_an_entry_point(monkeypatch):
    point = EntryPoint("colours", f"{Colours.__module__}:Colours", "zoo_exp.tasks")
    monkeypatch.setattr(tasks.REGISTRY, "_installed", {"colours": point, "tints": point})
    assert tasks.get("colours") == Colours()
    with pytest.raises(
        InvalidValueError, match=r"registered as task 'tints' is Colours.* a Task of that name"
    ):
        tasks.get("tints")


def test_a_taken_task_name_is_refused(own):
    with pytest.raises(InvalidValueError, match="a task named 'gqa' exists already"):
        tasks.register(GQA("gqa", tasks.DataSource("me/gqa", "test")))


def test_a_task_class_without_defaults_is_refused(own):
    tasks.REGISTRY.add("bare", GQA)
    with pytest.raises(InvalidValueError, match=r"task 'bare': GQA\(\) failed"):
        tasks.get("bare")


def test_a_response_must_be_a_string():
    with pytest.raises(InvalidValueError, match=r"gqa: a response must be a string, got NoneType"):
        tasks.get("gqa").score({"answer": "a"}, None)


@pytest.mark.parametrize("name", tasks.available())
def test_a_row_without_what_scoring_needs_is_refused(name):
    task = tasks.get(name)
    with pytest.raises(InvalidValueError, match=f"{name}: the row lacks {task.scored_columns[0]}"):
        task.score({"nothing": 1}, "yes")


@pytest.mark.parametrize(
    ("name", "doc", "message"),
    [
        ("gqa", {"answer": None}, "gqa: the row has no reference answer"),
        ("gqa", {"answer": 5}, r"gqa: answer must be a text, got int \(5\)"),
        ("pope", {"answer": "maybe"}, "the reference answer is 'maybe', but must be yes or no"),
        (
            "mme",
            {"question_id": "a", "category": "color", "answer": "?"},
            r"the reference answer is '\?', but must be yes or no",
        ),
        ("pope", {"answer": 3}, r"pope: answer must be a text, got int \(3\)"),
        (
            "scienceqa_img",
            {"choices": ["a", "b"], "answer": 2},
            r"answer 2 is not the number of a choice \(0 to 1\)",
        ),
        ("vqav2_val", {"answers": None}, "no reference answers"),
        ("textvqa_val", {"answers": [None]}, r"answers must be a list of .*, got list \(\[None\]\)"),
        (
            "mmmu_val",
            {"id": "v_Art_1", "options": "[1", "answer": "A", "question_type": "multiple-choice"},
            r"options '\[1' is not a Python list",
        ),
        (
            "mmbench_en_dev_static",
            {"index": "x", "answer": "A", **dict.fromkeys("ABCD", "t")},
            r"index must be a whole number, got str \('x'\)",
        ),
        ("seedbench_image", {"answer": "A", "data_type": "video"}, "use the task seedbench for those"),
    ],
)
def test_bad_fields_are_named(name, doc, message):
    with pytest.raises(InvalidValueError, match=message):
        tasks.get(name).score(doc, "yes")


def test_aggregates_refuse_no_rows_and_repeated_samples():
    task = tasks.get("gqa")
    with pytest.raises(InvalidValueError, match="gqa: no rows"):
        task.aggregate([])
    with pytest.raises(InvalidValueError, match="2 rows have the sample id 'a'"):
        task.aggregate([{"sample_id": "a", "score": 1.0}, {"sample_id": "a", "score": 0.0}])


def test_a_random_letter_depends_on_the_sample_only():
    """Arms must draw the same letter for the same unreadable question, whatever was scored before."""
    task = tasks.get("mmmu_val")
    docs = [
        {
            "id": f"validation_Art_{i}",
            "options": str(list("wxyz")),
            "answer": "A",
            "question_type": "multiple-choice",
        }
        for i in range(400)
    ]
    first = [task.score(doc, "?")["score"] for doc in docs]
    assert first[::-1] == [task.score(doc, "no idea")["score"] for doc in reversed(docs)]
    assert 0.15 < sum(first) / len(first) < 0.35  # 1 of 4 options, +-4.6 standard errors


@pytest.mark.parametrize("name", EMBEDDED)
def test_reference_answers_of_embedded_rows_have_the_maximum_score(name):
    pytest.importorskip("zoo_exp.embedded.benchmarks")
    from zoo_exp.tasks.data import load

    task = tasks.get(name)
    rows, answers, wrong = load(task, limit=24), [], []
    lettered = task.family in ("scienceqa", "mmbench", "mmmu", "seedbench")
    for doc in rows:
        task.require(doc, task.columns)
        gold = task.reference(doc)[:1] if lettered else task.reference(doc)
        ids = {"sample_id": task.sample_id(doc), "image_id": task.image_id(doc)}
        answers.append({**ids, **task.score(doc, gold)})
        wrong.append({**ids, **task.score(doc, "zebra")})
        assert task.images(doc)[0].mode == "RGB"
    assert json.loads(json.dumps(answers)) == answers
    best, worst = task.aggregate(answers)[task.main_metric], task.aggregate(wrong)[task.main_metric]
    assert 0 < best <= task.scale.maximum
    if task.scale.unit != "points":  # 12 MME images do not cover every category
        assert best == task.scale.maximum
    assert worst < best / 2
    assert all(row["score"] == 1 for row in answers)

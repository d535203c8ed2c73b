"""`score`, `run` and `report` give the same interval for the same responses."""

import io
import json
import random
from pathlib import Path

import pytest
from made_up_run import manifest, write_jsonl
from rich.console import Console

from zoo_exp import tasks
from zoo_exp.report import summary
from zoo_exp.report.runs import results_of
from zoo_exp.runs.load import load_run
from zoo_exp.statistics.tallies import metric_intervals
from zoo_exp.tasks.data import load
from zoo_exp.tasks.scorefile import score_file

GOLDEN = Path(__file__).parents[1] / "golden" / "scoring"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "predictions.jsonl"


def responses(task, limit, seed=0):
    """Rows without their images, each with a response that is right three times out of four."""
    rng = random.Random(seed)
    lettered = task.family in ("scienceqa", "mmbench", "mmmu", "seedbench")
    found = []
    for doc in load(task, limit=limit):
        right = task.reference(doc)[:1] if lettered else task.reference(doc)
        wrong = {"yes": "no", "no": "yes"}.get(right.lower(), "zebra")
        texts = {key: value for key, value in doc.items() if not key.startswith("image") or key == "imageId"}
        texts |= {key: doc[key] for key in ("image_source", "image_id") if key in doc}
        found.append({"doc": texts, "response": right if rng.random() < 0.75 else wrong})
    return found


@pytest.mark.parametrize("family", ["gqa", "vqav2", "pope", "mme", "mmbench", "seedbench", "mmmu"])
def test_score_run_and_report_give_the_same_interval(family, file, tmp_path):
    task = tasks.get(f"embedded_{family}")
    given = responses(task, 24)
    scored = score_file(task, write(file, given))
    mine = metric_intervals(task, scored.rows)[task.main_metric]

    arm = {"arm": "full", "arm_id": "a", "selector": "full", "options": {}, "budget": None, "seed_index": 0}
    records = [
        {**arm, "task": task.name, "sample_id": row["sample_id"], "image_id": row["image_id"], "cell": "c"}
        | {"question": "?", "reference": "", "response": one["response"], "score": row["score"]}
        | {"parts": {key: row[key] for key in row if key not in ("sample_id", "image_id")}}
        | {"kept_tokens": 144, "n_visual": 144}
        for row, one in zip(scored.rows, given, strict=True)
    ]
    run = tmp_path / "run"
    run.mkdir()
    write_jsonl(run / "records.jsonl", records[::-1])
    content = manifest("same")
    content["experiment"] |= {"tasks": [task.name], "arms": [arm]}
    (run / "experiment.json").write_text(json.dumps(content))

    ran = summary.write(run, "same", [task], [arm], console=Console(file=io.StringIO()))
    for results in (ran, results_of(load_run(run))):
        line = results.lines["full"][task.name]
        assert (line["low"], line["high"], line["value"]) == (
            mine.low,
            mine.high,
            scored.metrics[task.main_metric],
        )


def rows_of(n, seed, images=None):
    rng = random.Random(seed)
    return [
        {"sample_id": str(i), "image_id": str(i % (images or n)), "score": float(rng.random() < 0.6)}
        for i in range(n)
    ]


def test_intervals_are_those_of_a_mean():
    rows = rows_of(2000, 0)
    value = sum(row["score"] for row in rows) / len(rows)
    interval = metric_intervals(tasks.get("gqa"), rows)["exact_match"]
    error = 1.96 * (value * (1 - value) / len(rows)) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((value - error, value + error), abs=0.15 * error)


def test_intervals_keep_the_rows_of_an_image_together():
    """Ten copies of every answer are no more evidence than one."""
    rows = rows_of(200, 1)
    copies = [{**row, "sample_id": f"{row['sample_id']}-{i}"} for row in rows for i in range(10)]
    apart = [{**row, "image_id": None} for row in copies]
    found = [metric_intervals(tasks.get("gqa"), r)["exact_match"] for r in (rows, copies, apart)]
    width = [interval.high - interval.low for interval in found]
    assert width[1] == pytest.approx(width[0], rel=1e-6)
    assert width[2] < 0.5 * width[0]


def test_intervals_do_not_depend_on_the_order_but_on_the_seed():
    rows = [{**row, "score": 0.3 * row["score"]} for row in rows_of(100, 2, images=40)]  # no proportion
    task = tasks.get("gqa")
    assert metric_intervals(task, rows) == metric_intervals(task, rows[::-1])
    assert metric_intervals(task, rows, seed=1) != metric_intervals(task, rows)


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("pope", "pope"),
        ("mme", "mme"),
        ("mmbench_en_dev_static", "mmbench_en_dev"),
        ("seedbench", "seedbench"),
        ("mmmu_val", "mmmu_val"),
    ],
)
def test_every_metric_of_a_golden_file_has_an_interval_around_it(name, golden, file):
    cases = json.loads((GOLDEN / f"{golden}.json").read_text())["cases"]
    scored = score_file(tasks.get(name), write(file, cases))
    assert len(scored.rows) == len(cases)
    found = metric_intervals(tasks.get(name), scored.rows)
    assert found.keys() == scored.metrics.keys()
    for key, interval in found.items():
        assert interval.low <= scored.metrics[key] <= interval.high
        assert interval.high > interval.low

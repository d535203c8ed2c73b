"""Easy and difficult questions: counts by hand, intervals that cover, bold only where significant."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_run import write_jsonl

from zoo_exp import tasks
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.alignment import align
from zoo_exp.statistics.arm_rows import group
from zoo_exp.statistics.comparisons import above_budget
from zoo_exp.statistics.difficulty import split
from zoo_exp.statistics.results import compute

ARMS = [
    {
        "arm": name if budget is None else f"{name} @{budget}",
        "selector": name,
        "budget": budget,
        "options": {},
    }
    for name, budget in (("full", None), ("resize", "16"), ("zoo", "16"), ("divprune", "16"))
]
ARMS = [{**arm, "arm_id": arm["arm"], "seed_index": 0} for arm in ARMS]


def named(name):
    """A task whose metric is the mean score."""
    return replace(tasks.get("gqa"), name=name)


def records(right, task="t"):
    """`right`: arm -> whether it is right, per question; every question has an image of its own."""
    return pd.DataFrame(
        {
            **{key: arm[key] for key in ("arm", "arm_id", "selector", "budget", "options", "seed_index")},
            "task": task,
            "sample_id": f"{number:05d}",
            "image_id": f"{task} {number}",
            "score": float(value),
            "parts": {"score": float(value)},
            "kept_tokens": 16 if arm["budget"] else 144,
            "layer_tokens": None,
            "n_visual": 144,
            "flops_tflop": None,
        }
        for arm in ARMS
        for number, value in enumerate(right[arm["selector"]])
    )


def rows_of(*frames, draws=400):
    rows = group(ARMS)
    samples = [
        align(Answers.of(frame), named(frame["task"].iloc[0]), [arm["arm_id"] for arm in ARMS])
        for frame in frames
    ]
    reference = next(i for i, row in enumerate(rows) if row.selector == "full")
    above = above_budget(rows, samples)
    return split(rows, samples, reference, above, draws, seed=0).set_index(["part", "arm"])


def test_by_hand():
    found = rows_of(
        records(
            {
                "full": [1, 1, 1, 1, 1, 1],
                "resize": [1, 1, 0, 0, 0, 0],
                "zoo": [1, 1, 1, 1, 1, 0],
                "divprune": [1, 0, 1, 0, 0, 0],
            }
        )
    )
    assert set(found.index) == {(p, f"{a} @16") for p in ("easy", "difficult") for a in ("zoo", "divprune")}
    assert found["n"].to_dict()["easy", "zoo @16"] == 2
    assert found["share"].to_dict()["difficult", "zoo @16"] == pytest.approx(4 / 6)
    assert found["retained"].round(6).to_dict() == {
        ("easy", "zoo @16"): 100,
        ("easy", "divprune @16"): 50,
        ("difficult", "zoo @16"): 75,
        ("difficult", "divprune @16"): 25,
    }


def test_all_questions_have_equal_weight_and_best_means_significant():
    generator = np.random.default_rng(0)
    frames = []
    for task, n in (("t", 400), ("u", 100)):
        skill = {"full": 0.95, "resize": 0.4, "zoo": 0.8, "divprune": 0.6}
        frames.append(records({name: generator.random(n) < p for name, p in skill.items()}, task))
    found = rows_of(*frames)
    both = pd.concat(frames)
    hard = both[both["selector"] == "resize"].set_index(["task", "sample_id"])["score"] == 0
    score = {
        name: part.set_index(["task", "sample_id"])["score"][hard].sum()
        for name, part in both.groupby("selector")
    }
    row = found.loc["difficult", "zoo @16"]
    assert row["retained"] == pytest.approx(100 * score["zoo"] / score["full"])
    assert row["low"] < row["retained"] < row["high"]
    assert row["n"] == hard.sum()
    assert found["best"].to_dict() == {key: key[1] == "zoo @16" for key in found.index}
    assert not rows_of(records({name: [1, 0, 1, 0] * 3 for name in skill}))["best"].any()


def test_the_interval_has_the_width_of_the_known_variance():
    """Full always right: retained is a plain proportion of n questions, whose standard error is known."""
    generator = np.random.default_rng(1)
    n = 4000
    found = rows_of(
        records(
            {
                "full": np.ones(n),
                "resize": np.zeros(n),
                "zoo": generator.random(n) < 0.7,
                "divprune": np.zeros(n),
            }
        ),
        draws=2000,
    )
    row = found.loc["difficult", "zoo @16"]
    p = row["retained"] / 100
    assert row["high"] - row["low"] == pytest.approx(100 * 2 * 1.96 * np.sqrt(p * (1 - p) / n), rel=0.08)


def test_without_a_resize_arm_or_a_full_one_there_is_no_split(make_whole_run):
    frame = records({name: [1, 0] for name in ("full", "resize", "zoo", "divprune")})
    rows = group(ARMS)
    samples = [align(Answers.of(frame), named("t"), [arm["arm_id"] for arm in ARMS])]
    assert split(rows, samples, None, set(), 50, 0).empty
    others = [row for row in rows if row.selector != "resize"]
    assert split(others, samples, 0, set(), 50, 0).empty


def add_resize(run):
    """Give a made-up run a resize arm that answers every second question."""
    manifest = json.loads((run / "experiment.json").read_text())
    arm = {"arm": "resize @16", "arm_id": "r", "selector": "resize", "options": {}, "budget": "16"}
    arm["seed_index"] = 0
    manifest["experiment"]["arms"].append(arm)
    (run / "experiment.json").write_text(json.dumps(manifest))
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    full = [row for row in rows if row["selector"] == "full"]
    own = []
    for number, row in enumerate(full):
        right = number % 2 == 0
        said = row["parts"]["gold"] == right
        parts = {**row["parts"], "score": float(right), "said": said, "prediction": "yes" if said else "no"}
        own.append({**row, **arm, "score": float(right), "parts": parts, "kept_tokens": 16})
    write_jsonl(run / "records.jsonl", rows + own)


def test_the_split_is_on_the_page_and_in_markdown(make_whole_run):
    from zoo_exp.report.build import build

    run = make_whole_run()
    add_resize(run)
    page = build([run], draws=50)
    assert ">Easy and difficult questions</h3>" in page.read_text()
    assert "Easy and difficult questions" in (page.parent / "report.md").read_text()
    assert "Image contribution" in (page.parent / "report.md").read_text()


def contribution_of(full, blind, draws=2000):
    arms = [
        {"arm": n, "arm_id": n, "selector": n, "budget": None, "options": {}, "seed_index": 0}
        for n in ("full", "blind")
    ]
    rows = [
        {**arm, "task": "t", "sample_id": f"{number:05d}", "image_id": str(number), "score": float(value)}
        | {
            "parts": {"score": float(value)},
            "kept_tokens": 1,
            "layer_tokens": None,
            "n_visual": 1,
            "flops_tflop": None,
        }
        for arm, values in zip(arms, (full, blind), strict=True)
        for number, value in enumerate(values)
    ]
    timings = pd.DataFrame(columns=["task", "arm", "select_ms", "prefill_decode_ms", "vision_ms"])

    results = compute("x", pd.DataFrame(rows), timings, [named("t")], arms, draws=draws)
    (line,) = results.contribution.to_dict("records")
    return line


def test_image_contribution_has_paired_intervals():
    generator = np.random.default_rng(2)
    blind = generator.random(3000) < 0.4
    full = blind | (generator.random(3000) < 0.5)
    line = contribution_of(full, blind)
    difference = full.astype(float) - blind
    assert line["difference"] == pytest.approx(difference.mean())
    assert line["relative"] == pytest.approx(full.mean() / blind.mean() - 1)
    width = 2 * 1.96 * difference.std() / np.sqrt(3000)
    assert line["high"] - line["low"] == pytest.approx(width, rel=0.08)
    assert line["significant"]
    assert line["relative_low"] < line["relative"] < line["relative_high"]


def test_zero_and_infinite_contributions():
    same = contribution_of([1, 0] * 20, [1, 0] * 20, draws=200)
    assert (same["difference"], same["significant"]) == (0, False)
    line = contribution_of([1] * 20, [1] + [0] * 19, draws=500)
    assert line["relative"] == pytest.approx(19)
    assert line["relative_high"] == np.inf
    assert 0 < line["relative_low"] < 19

"""Successes and failures are the questions that the printed criterion names."""

import json

from PIL import Image

from zoo_exp.report.mask_items import MaskArm, MaskItem, failures, successes
from zoo_exp.statistics.arm_rows import group
from zoo_exp.statistics.focus import Judges, default_focus

ARMS = [
    {"arm": "full", "selector": "full"},
    *(
        {"arm": name, "selector": name.split(" ")[0], "budget": "16"}
        for name in ("divprune @16", "visionzip @16")
    ),
    {"arm": "zoo none @16", "selector": "zoo", "options": {"fusion": "none"}, "budget": "16"},
    {"arm": "zoo @16", "selector": "zoo", "options": {"fusion": "multiply"}, "budget": "16"},
]
ROWS = group(ARMS)


def item(number, task="t", **right):
    """A question; `right` says per arm (by its first word) whether it was answered right."""
    arms = tuple(
        MaskArm(arm["arm"], (0,), "x", float(right.get(arm["arm"].split(" @")[0].replace(" ", "_"), False)))
        for arm in ARMS
    )
    return MaskItem(task, str(number), json.dumps(right), "r", (1, 1), Image.new("RGB", (4, 4)), arms)


JUDGES = Judges.of(ROWS, ROWS[-1])


def test_the_focus_is_the_default_method():
    assert default_focus(ROWS).names == ("zoo @16",)
    assert default_focus(group(ARMS[:4])) is None


def test_a_success_is_correct_where_more_than_half_of_the_others_are_wrong():
    items = [
        item(0, zoo=True, divprune=True, visionzip=True),
        item(1, zoo=True, divprune=True),
        item(2, zoo=True, zoo_none=True),
        item(3, zoo=True),
        item(4),
    ]
    assert [found.sample_id for found in successes(items, JUDGES)] == ["2"]
    assert [found.sample_id for found in successes(items, JUDGES, each=3)] == ["2", "3"]
    # One of two others is wrong: that is half, not most.
    assert not successes(items[:2], JUDGES)


def test_a_failure_is_wrong_where_more_than_half_of_the_others_are_correct():
    items = [
        item(0, divprune=True, visionzip=True),
        item(1, full=True, divprune=True),
        item(2, full=True, divprune=True, visionzip=True),
        item(3, task="u", full=True),
    ]
    assert [found.sample_id for found in failures(items, JUDGES, each=3)] == ["2", "0"]
    assert not failures(items[1:2], JUDGES)


def test_the_seeds_of_an_arm_count_together():
    seeds = [
        {"arm": f"random @16 seed {seed}", "row": "random @16", "selector": "random", "budget": "16"}
        | {"options": {}, "seed": seed, "arm_id": f"r{seed}"}
        for seed in range(3)
    ]
    rows = group([*seeds, ARMS[-1]])
    judges = Judges.of(rows, next(row for row in rows if row.selector == "zoo"))
    right = {"zoo @16": 1.0, "random @16 seed 0": 1.0, "random @16 seed 1": 0.0, "random @16 seed 2": 0.0}
    assert judges.judge(right) == ("success", 0, 1)
    assert judges.judge(right | {"zoo @16": 0.0, "random @16 seed 1": 1.0}) == ("failure", 1, 1)
    del right["random @16 seed 2"]
    assert judges.judge(right) == ("", 0, 0)


def test_latex_escapes_what_it_must(make_whole_run):
    from zoo_exp.report.run_document import latex_document
    from zoo_exp.report.runs import results_of
    from zoo_exp.runs.load import load_run

    run = make_whole_run("a_b & 50% #1 {x} \\input{y} ~ ^")
    text = latex_document(results_of(load_run(run), draws=50), "llava_7b")
    assert r"\input{y}" not in text
    assert r"a\_b \& 50\% \#1 \{x\} \textbackslash{}input\{y\} \textasciitilde{} \textasciicircum{}" in text
    for table in text.split(r"\end{table}")[:-1]:
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in rows}) == 1

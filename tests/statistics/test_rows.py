"""Grouping of arms into table rows."""

import pytest

from zoo_exp.statistics.arm_rows import group


def arm(name, budget=None, selector="zoo", **more):
    return {"arm": name, "arm_id": f"{name}/{more}", "selector": selector, "budget": budget, **more}


def test_seeds_share_a_row():
    rows = group([arm(f"random @16 seed {n}", "16", "random", seed_index=n) for n in range(3)])
    assert [row.label for row in rows] == ["random @16 (3 seeds)"]
    assert rows[0].names == ("random @16 seed 0", "random @16 seed 1", "random @16 seed 2")
    assert len(rows[0].members) == 3


@pytest.mark.parametrize(
    "label", ["ours (new)", "ours #1", "x (a)", "x seed 1", "a @ b", "zoo (3 seeds)", "["]
)
def test_a_label_stays_as_the_user_wrote_it(label):
    """Whatever it looks like: what arms share is recorded, not read out of their labels."""
    mine = [
        arm(f"{label} @{b}", b, row=f"{label} @{b}", options={"fusion": "sum"}, seed=0) for b in ("16", "8")
    ]
    other = arm(f"{label}! @16", "16", row=f"{label}! @16", options={"fusion": "multiply"}, seed=0)
    rows = group([*mine, other])
    assert [row.label for row in rows] == [f"{label} @16", f"{label}! @16", f"{label} @8"]
    assert [row.row for row in rows] == [row.label for row in rows]


@pytest.mark.parametrize("labels", [("ours #1", "ours #2"), ("x (a)", "x (b)"), ("x seed 0", "x seed 1")])
def test_similar_labels_are_different_rows(labels):
    fusions = ("sum", "multiply")
    version_1 = [
        arm(name, "16", options={"fusion": fusion}, seed_index=0)
        for name, fusion in zip(labels, fusions, strict=True)
    ]
    rows = group([{**one, "row": one["arm"], "seed": 0} for one in version_1])
    assert [row.label for row in rows] == list(labels)
    assert len({row.label for row in group(version_1)}) == 2


def test_arms_of_version_1_share_a_row_by_their_recorded_seed():
    rows = group([arm(f"random @16 seed {n}", "16", "random", seed_index=n) for n in range(3)])
    assert [(row.label, row.row) for row in rows] == [("random @16 (3 seeds)", "random @16")]


def test_rows_are_in_the_papers_order():
    rows = group(
        [
            arm("blind", selector="blind"),
            arm("zoo @48", "48"),
            arm("zoo @16", "16"),
            arm("full", selector="full"),
            arm("fastv @48", "48", "fastv"),
            arm("fastv @16", "16", "fastv"),
        ]
    )
    assert [row.label for row in rows] == ["full", "zoo @48", "fastv @48", "zoo @16", "fastv @16", "blind"]


def test_labels_are_unique():
    rows = group([arm("mine", "16", options={"m": 1}), arm("mine", "16", options={"m": 2})])
    assert [row.label for row in rows] == ['mine {"m": 1}', 'mine {"m": 2}']

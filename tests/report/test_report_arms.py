"""Which arms share a row."""

import pytest

from zoo_exp.statistics.rows import group


def arm(name, budget=None, selector="zoo", **more):
    return {"arm": name, "arm_id": f"{name}/{more}", "selector": selector, "budget": budget, **more}


def test_seeds_share_a_row():
    rows = group([arm(f"random @16 seed {n}", "16", "random", seed_index=n) for n in range(3)])
    assert [row.label for row in rows] == ["random @16 (3 seeds)"]
    assert rows[0].names == ("random @16 seed 0", "random @16 seed 1", "random @16 seed 2")
    assert len(rows[0].members) == 3


@pytest.mark.parametrize("suffix", [" seed 1", " seed=1", " (seed 1)", ", seed 1", " #1"])
def test_ways_to_name_a_seed(suffix):
    first, second = f"random @16{suffix.replace('1', '0')}", f"random @16{suffix}"
    rows = group([arm(first, "16", "random", seed_index=0), arm(second, "16", "random", seed_index=1)])
    assert [row.label for row in rows] == ["random @16 (2 seeds)"]


def test_the_seed_may_stand_among_the_options():
    rows = group([arm("random @16", "16", "random", options={"seed": n}) for n in range(2)])
    assert len(rows) == 1


def test_order_is_the_papers():
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

"""Claims about pairs of rows, and layer selectors beside input selectors of the same cost."""

import math

import numpy as np
import pandas as pd
import pytest

from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.claims import HOLDS, OPEN, REVERSED, decide
from zoo_exp.statistics.comparisons import Contest
from zoo_exp.statistics.equal_flops import match

ZOO = {"claim": "zoo is better", "arm": "zoo", "against": "divprune"}


def row(name, budget, selector="zoo"):
    label = f"{name} @{budget}"
    return ArmRow(label, label, selector, "{}", budget, (label,), (label,))


ROWS = [row("zoo", "16"), row("divprune", "16"), row("zoo", "8"), row("divprune", "8"), row("zoo", "4")]


def contest(right, units=200):
    """Rows that answer so many units rightly, each more the same ones and more; draws over the units."""
    scores = {one.label: np.arange(units) < count for one, count in zip(ROWS, right, strict=True)}
    weights = np.random.default_rng(0).poisson(1.0, (500, units))
    values = np.stack([scores[one.label].astype(float) for one in ROWS])
    drawn = 100 * (weights @ values.T) / weights.sum(1, keepdims=True)
    plain = {name: found.astype(float) for name, found in scores.items()}
    return Contest(100 * values.mean(1), drawn, units, [plain])


def test_a_claim_holds_is_reversed_or_open_at_each_budget_of_both_rows():
    found = decide([ZOO], ROWS, contest([180, 120, 90, 150, 10]), set())
    assert list(found["budget"]) == ["16", "8"]
    assert list(found["holds"]) == [HOLDS, REVERSED]
    assert list(found["difference"]) == [pytest.approx(30), pytest.approx(-30)]
    assert list(found["arm"]) == ["zoo @16", "zoo @8"]
    assert (found["low"] < found["difference"]).all()
    assert (found["difference"] < found["high"]).all()
    near = decide([ZOO], ROWS, contest([120, 119, 90, 90, 10]), set())
    assert list(near["holds"]) == [OPEN, OPEN]


def test_p_values_are_corrected_over_all_claims_and_budgets():
    """6 discordant units have p = 0.031: significant alone, not as one of two."""
    game = contest([126, 120, 90, 90, 10])
    alone = decide([ZOO], ROWS[:2], Contest(game.value, game.resampled, 200, game.scores), set())
    assert list(alone["holds"]) == [HOLDS]
    both = decide([ZOO], ROWS, game, set())
    assert both["p_holm"].iloc[0] == pytest.approx(2 * both["p_value"].iloc[0])
    assert both["holds"].iloc[0] == OPEN


def test_rows_above_their_budget_and_absent_rows_are_left_out():
    game = contest([180, 120, 90, 150, 10])
    assert list(decide([ZOO], ROWS, game, {1})["budget"]) == ["8"]
    assert decide([{**ZOO, "against": "random"}], ROWS, game, set()).empty


def test_layer_selectors_stand_beside_input_selectors_of_their_cost():
    rows = [row("fastv", "8", "fastv"), row("zoo", "16"), row("zoo", "8"), row("random", "8", "random")]
    frame = pd.DataFrame(
        {
            "arm": [one.label for one in rows],
            "task": "average",
            "layer_tokens": [40.0, math.nan, math.nan, math.nan],
            "prefill_tflop": [1.0, 0.9, 0.5, 0.5],
            "selector_tflop": [math.nan, 0.05, 0.05, 0.0],
        }
    )
    drawn = np.random.default_rng(0).normal([90, 80, 70, 60], 1.0, (200, 4))
    found = match(rows, frame, Contest(np.array([90.0, 80, 70, 60]), drawn, 100, []))
    assert list(found["layer_arm"]) == ["fastv @8"]
    assert list(found["arm"]) == ["zoo @16"], "the nearest budget; random has none within 15 %"
    assert found["difference"].iloc[0] == pytest.approx(10)
    assert found["ratio"].iloc[0] == pytest.approx(0.95)
    assert 5 < found["low"].iloc[0] < 10 < found["high"].iloc[0] < 15
    assert match(rows, frame.drop(columns="prefill_tflop"), Contest(np.ones(4), drawn, 100, [])).empty

"""Budgets, seeds and `VisualTokens`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_exp.core.budget import ROUNDINGS, SCOPES, Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.testing import sample_tokens

TABLE = np.load(Path(__file__).parents[1] / "golden" / "selection" / "budget_rounding.npz")["table"]


@pytest.mark.parametrize(("n", "ratio", "divprune", "zoo"), TABLE.tolist())
def test_ratios_round_as_each_release_does(n, ratio, divprune, zoo):
    """The release may keep 0 tokens of a tiny image; a ratio here keeps one at least."""
    for rounding, expected in (("bankers", divprune), ("down", zoo)):
        assert Budget(keep_ratio=ratio, rounding=rounding).resolve(int(n)) == max(1, int(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (64, 64),
        ("64", 64),
        (0.5, 288),
        ("11.1%", 64),
        (1.0, 576),
        (1, 1),
        ("0.0001", 1),
        (Budget(count=3), 3),
        ("64 mean", 64),
        ("11.1%:down mean", 63),
        ("<=600 mean", 576),
    ],
)
def test_budgets_as_users_write_them(value, expected):
    assert Budget.parse(value).resolve(576) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "selector 'blind'"),
        (-3, "budget -3"),
        (1.5, "budget 1.5"),
        ("many", "budget 'many' is not a number"),
        (float("nan"), "budget nan"),
        (True, "budget True"),
        ("-5%", "budget -0.05"),
        (None, "budget None"),
        ("32/head", "budget per 'head': allowed are image, tile, frame, mean"),
        ("0.1:up", "rounding 'up': allowed are nearest, down, bankers"),
        ("32:down", "a count is not rounded"),
        ("3/tile/tile", "budget '3/tile/tile' is not a budget"),
        ("3/tile mean", "budget '3/tile mean': a mean over layers refers to the whole image, remove '/tile'"),
    ],
)
def test_bad_budgets_are_named(value, message):
    with pytest.raises(InvalidValueError, match=message):
        Budget.parse(value)


def test_a_budget_per_frame_is_for_videos():
    budget = Budget.parse("<=16/frame")
    assert (str(budget), budget.of_frame(9).resolve(9)) == ("<=16/frame", 9)
    assert budget.meaning() == "16 visual tokens of every frame of a video (all of a frame that has fewer)"
    assert Budget.parse("25%/frame:down").of_frame(49).resolve(49) == 12
    with pytest.raises(InvalidValueError, match=r"an image has no frames: give <=16 .* or <=16/tile"):
        budget.resolve(576)
    with pytest.raises(InvalidValueError, match="give 1/frame to 9/frame, '<=16/frame'"):
        Budget.parse("16/frame").of_frame(9)


@given(
    size=st.one_of(
        st.fixed_dictionaries({"count": st.integers(1, 10**4), "at_most": st.booleans()}),
        st.fixed_dictionaries(
            {
                "keep_ratio": st.integers(1, 10**9).map(lambda n: n / 10**9),
                "rounding": st.sampled_from(list(ROUNDINGS)),
            }
        ),
    ),
    per=st.sampled_from(SCOPES),
)
def test_the_text_of_a_budget_is_read_back(size, per):
    """Arms are named by it: two different budgets must not share a text."""
    budget = Budget(**size, per=per)
    assert Budget.parse(str(budget)) == budget


def test_a_count_above_the_image_is_named():
    with pytest.raises(InvalidValueError, match="budget 65 is above the 64 visual tokens"):
        Budget(count=65).resolve(64)


def test_at_most_keeps_all_tokens_of_a_small_image():
    assert [Budget.parse("<=65").resolve(n) for n in (64, 65, 66)] == [64, 65, 65]
    with pytest.raises(InvalidValueError, match="at_most requires a count"):
        Budget.parse("<=50%")


def test_seeds_are_the_samples_own():
    """These numbers must never change: recorded answers depend on them."""
    assert generator_for(0, "a").initial_seed() == generator_for(0, "a").initial_seed()
    seeds = {generator_for(s, i, t).initial_seed() for s in (0, 1) for i in ("a", "b", "1") for t in (0, 1)}
    assert len(seeds) == 12
    assert torch.randint(0, 1000, (3,), generator=generator_for(7, "coco/42", 1)).tolist() == SEEDED


SEEDED = [154, 677, 411]


def test_a_part_of_an_image_has_its_rows_only():
    tokens, index = sample_tokens(), torch.tensor([3, 0, 7])
    part = tokens.subset(index)
    for field in ("projected", "features", "cls_attention", "received_attention", "keys", "clip_image"):
        assert torch.equal(getattr(part, field), getattr(tokens, field)[index]), field
    assert torch.equal(part.hidden[1], tokens.hidden[1][index])
    assert (part.count, part.grid, part.replay, part.pixels_encoder) == (3, None, None, None)
    assert torch.equal(part.text, tokens.text)


def test_needs_are_looked_up_by_name():
    full, bare = sample_tokens(), VisualTokens(projected=torch.zeros(3, 2))
    needs = [
        "features",
        "projector",
        "cls_attention",
        "received_attention",
        "keys",
        "cls",
        "hidden",
        "replay",
    ]
    needs += ["text", "resize", "clip"]
    assert all(full.has(need) for need in needs)
    assert not any(bare.has(need) for need in needs)


def test_wrong_shapes_are_named():
    with pytest.raises(InvalidValueError, match=r"projected must be \[N, D\]"):
        VisualTokens(projected=torch.zeros(3))
    with pytest.raises(InvalidValueError, match="keys has 2 rows, but there are 3"):
        VisualTokens(projected=torch.zeros(3, 2), keys=torch.zeros(2, 2))
    with pytest.raises(InvalidValueError, match="indices must be int64"):
        Selection(torch.zeros(2))
    with pytest.raises(InvalidValueError, match="merged has 1 rows for 2 kept tokens"):
        Selection(torch.arange(2), merged=torch.zeros(1, 4))

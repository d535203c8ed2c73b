"""Finite differences: released numbers, the fast path against Algorithm 1 as printed, Proposition B.1."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core.low_rank import LowRankMLP, low_rank
from zoo_exp.core.sensitivity import MLP, draw_directions, zeroth_order, zeroth_order_reference
from zoo_exp.errors import InvalidValueError

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"


def load(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def unit(raw):
    return raw / (raw.norm(dim=-1, keepdim=True) + 1e-12)


def random_mlp(seed=0, width=16, hidden=32, out=24, approximate="none"):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    w1, w2 = draw(hidden, width) / math.sqrt(width), draw(out, hidden) / math.sqrt(hidden)
    return MLP(w1, draw(hidden) / 10, w2, draw(out) / 10, approximate)


def double(mlp):
    return MLP(mlp.w1.double(), mlp.b1.double(), mlp.w2.double(), mlp.b2.double(), mlp.approximate)


def as_printed(x, project, directions, h):
    """Algorithm 1, one token and one direction at a time, in float64."""
    out = []
    for row in x.double():
        changes = [(project(row + h * u) - project(row - h * u)) / (2 * h) for u in directions.double()]
        out.append(torch.stack([change.norm() for change in changes]).mean())
    return torch.stack(out)


@pytest.mark.parametrize("name", ["zoo_sens_small", "zoo_sens_med"])
@pytest.mark.parametrize("estimate", [zeroth_order, zeroth_order_reference])
def test_sensitivity_is_the_released_one(name, estimate):
    case = load(name)
    mlp = MLP(case["W1"], case["b1"], case["W2"], case["b2"])
    s = estimate(case["X"], mlp, unit(case["Uraw"]), 0.01)
    torch.testing.assert_close(s.double(), case["S_f64"][0], rtol=2e-4, atol=0)
    torch.testing.assert_close(s, case["S_f32"][0], rtol=2e-4, atol=0)


def test_half_precision_rounds_like_the_release():
    """With directions normalised in half precision, as released, even the rounding is the same."""
    case = load("zoo_sens_fp16")
    mlp = MLP(case["W1"], case["b1"], case["W2"], case["b2"])
    half = zeroth_order(case["X"], mlp, unit(case["Uraw"].half()), 0.01, dtype=torch.float16)
    single = zeroth_order(case["X"], mlp, unit(case["Uraw"]), 0.01)
    torch.testing.assert_close(half, case["S_fp16_cpu"][0], rtol=2e-3, atol=0)
    assert spearman(single, case["S_f64"][0]) > 0.9999
    assert spearman(half, case["S_f64"][0]) == pytest.approx(0.9725, abs=0.002)  # what the manifest says


def spearman(a, b):
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


@pytest.mark.parametrize("rank", [4, 16, 64])
def test_low_rank_sensitivity_is_the_intended_one(rank):
    case = load("zoo_sens_lowrank")
    thin = low_rank(MLP(case["W1"], case["b1"], case["W2"], case["b2"]), rank)
    torch.testing.assert_close(thin.up1 @ thin.down1, case[f"W1_r{rank}"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(thin.up2 @ thin.down2, case[f"W2_r{rank}"], rtol=1e-4, atol=1e-5)
    directions = unit(case["Uraw"])
    for tile, expected in zip(case["X"], case[f"S_lowrank_r{rank}_f64"], strict=True):
        for estimate in (zeroth_order, zeroth_order_reference):
            s = estimate(tile, thin, directions, 0.01)
            torch.testing.assert_close(s.double(), expected, rtol=2e-4, atol=0)


def test_released_low_rank_network_is_a_random_one():
    case = load("zoo_sens_lowrank_as_released")
    zeros = torch.zeros
    network = LowRankMLP(case["A"], case["B"], zeros(128), case["C"], case["D"], zeros(96))
    s = zeroth_order(case["X"][0], network, unit(case["Uraw"]), 0.01)
    torch.testing.assert_close(s.double(), case["S_f64"][0], rtol=2e-4, atol=0)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 9),
    m=st.integers(1, 7),
    seed=st.integers(0, 99),
    approximate=st.sampled_from(["none", "tanh"]),
)
def test_both_paths_give_the_algorithm_as_printed(n, m, seed, approximate):
    mlp = random_mlp(seed, approximate=approximate)
    g = torch.Generator().manual_seed(seed)
    x, directions = torch.randn(n, 16, generator=g), draw_directions(m, 16, g)
    expected = as_printed(x, double(mlp), directions, 0.01).float()
    torch.testing.assert_close(zeroth_order(x, mlp, directions, 0.01), expected, rtol=2e-4, atol=0)
    torch.testing.assert_close(zeroth_order_reference(x, mlp, directions, 0.01), expected, rtol=2e-4, atol=0)


def test_chunks_do_not_change_the_answer(monkeypatch):
    mlp, g = random_mlp(), torch.Generator().manual_seed(1)
    x, directions = torch.randn(40, 16, generator=g), draw_directions(12, 16, g)
    whole = zeroth_order(x, mlp, directions, 0.01), zeroth_order_reference(x, mlp, directions, 0.01)
    monkeypatch.setattr("zoo_exp.core.sensitivity.WORKSPACE_BYTES", 20_000)
    parts = zeroth_order(x, mlp, directions, 0.01), zeroth_order_reference(x, mlp, directions, 0.01)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("hidden", "out"), [(32, 40), (35, 35), (5, 9)])
def test_the_triangle_of_w2_gives_the_same_lengths(monkeypatch, hidden, out):
    mlp, g = random_mlp(hidden=hidden, out=out), torch.Generator().manual_seed(1)
    x, directions = torch.randn(10, 16, generator=g), draw_directions(6, 16, g)
    plain = zeroth_order(x, random_mlp(hidden=hidden, out=out), directions, 0.01)
    monkeypatch.setattr("zoo_exp.core.sensitivity.TRIANGLE_FROM", 1)
    torch.testing.assert_close(zeroth_order(x, mlp, directions, 0.01), plain, rtol=1e-5, atol=0)


def test_error_falls_with_the_square_of_the_step():
    """Proposition B.1: S(h) = S(0) + O(h^2); in float64 the slope of log error over log h is 2."""
    from zoo_exp.core.closed_form import first_order

    mlp, g = double(random_mlp()), torch.Generator().manual_seed(2)
    x, directions = torch.randn(30, 16, generator=g), draw_directions(16, 16, g)
    limit = torch.zeros(30, dtype=torch.float64)
    for u in directions.double():
        limit += torch.func.jvp(mlp, (x.double(),), (u.expand(30, 16),))[1].norm(dim=-1) / 16
    torch.testing.assert_close(first_order(x, random_mlp(), directions), limit.float(), rtol=1e-5, atol=0)
    steps = torch.tensor([0.4, 0.2, 0.1, 0.05], dtype=torch.float64)
    errors = [
        (zeroth_order(x, mlp, directions, h, dtype=torch.float64) - limit).abs().mean()
        for h in steps.tolist()
    ]
    slopes = (torch.stack(errors)[:-1] / torch.stack(errors)[1:]).log2()
    assert ((slopes > 1.9) & (slopes < 2.1)).all(), slopes


def test_a_linear_projector_is_equally_sensitive_everywhere():
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    directions = draw_directions(8, 16, torch.Generator().manual_seed(1))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    s = zeroth_order(x, lambda v: v @ weight.T, directions, 0.01)
    expected = (directions @ weight.T).norm(dim=-1).mean()
    torch.testing.assert_close(s, expected.expand(5), rtol=1e-4, atol=0)


def test_directions_are_of_unit_length_and_the_generators():
    a = draw_directions(64, 32, torch.Generator().manual_seed(3))
    torch.testing.assert_close(a.norm(dim=-1), torch.ones(64))
    assert torch.equal(a, draw_directions(64, 32, torch.Generator().manual_seed(3)))
    assert not torch.equal(a, draw_directions(64, 32, torch.Generator().manual_seed(4)))


X, U = torch.zeros(4, 16), torch.zeros(2, 16)


@pytest.mark.parametrize("estimate", [zeroth_order, zeroth_order_reference])
@pytest.mark.parametrize(
    ("x", "directions", "h", "message"),
    [
        (torch.zeros(4), U, 0.01, r"\[N.*shape \(4,\)"),
        (torch.full((4, 16), torch.nan), U, 0.01, "NaN or infinity in 4 of 4 rows, first row 0"),
        (torch.full((4, 16), torch.inf), U, 0.01, "NaN or infinity"),
        (X, torch.zeros(2, 15), 0.01, r"\[M, 16\].*\(2, 15\)"),
        (X, torch.zeros(0, 16), 0.01, r"M of at least 1.*\(0, 16\)"),
        (X, U, 0.0, "step_size 0.0"),
        (X, U, -1.0, "step_size -1.0"),
        (X, U, math.nan, "step_size nan"),
    ],
)
def test_bad_input_is_named(estimate, x, directions, h, message):
    with pytest.raises(InvalidValueError, match=message):
        estimate(x, random_mlp(), directions, h)


def test_bad_widths_and_shapes_are_named():
    with pytest.raises(InvalidValueError, match=r"\[N, 16\], got shape \(4, 15\)"):
        zeroth_order(torch.zeros(4, 15), random_mlp(), torch.zeros(2, 15), 0.01)
    with pytest.raises(InvalidValueError, match="n_directions 0"):
        draw_directions(0, 16, torch.Generator())
    with pytest.raises(InvalidValueError, match=r"w1 \[H, Dv\].*\(31,\)"):
        MLP(torch.zeros(32, 16), torch.zeros(31), torch.zeros(24, 32), torch.zeros(24))
    with pytest.raises(InvalidValueError, match="approximation 'erf'"):
        MLP(torch.zeros(32, 16), torch.zeros(32), torch.zeros(24, 32), torch.zeros(24), "erf")


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_rank_out_of_range_is_named(rank):
    with pytest.raises(InvalidValueError, match=f"rank {rank}: allowed are 1 to 16"):
        low_rank(random_mlp(), rank)

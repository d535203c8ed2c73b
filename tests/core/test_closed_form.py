"""|J|_F / sqrt(Dv) from the weights, against automatic differentiation and many finite differences."""

import gc
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core import memo as memo_module
from zoo_exp.core.closed_form import PatchMerger, closed_form, first_order, jacobian_norm
from zoo_exp.core.low_rank import low_rank
from zoo_exp.core.memo import memo
from zoo_exp.core.sensitivity import MLP, draw_directions, zeroth_order
from zoo_exp.errors import InvalidValueError


def random_mlp(seed=0, width=16, hidden=32, out=24, approximate="none"):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    w1, w2 = draw(hidden, width) / math.sqrt(width), draw(out, hidden) / math.sqrt(hidden)
    return MLP(w1, draw(hidden) / 10, w2, draw(out) / 10, approximate)


def by_jacrev(x, project):
    """One Jacobian per token, in float64."""
    return torch.stack([torch.func.jacrev(project)(row).norm() for row in x.double()]) / math.sqrt(x.shape[1])


def in_double(mlp):
    return MLP(*(w.double() for w in (mlp.w1, mlp.b1, mlp.w2, mlp.b2)), approximate=mlp.approximate)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 6),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 12)),
    approximate=st.sampled_from(["none", "tanh"]),
)
def test_mlp_matches_jacrev(seed, n, sizes, approximate):
    mlp = random_mlp(seed, *sizes, approximate=approximate)
    x = 2 * torch.randn(n, sizes[0], generator=torch.Generator().manual_seed(seed))
    # In float32 the terms of the quadratic form may cancel: the error of S^2 is relative to the sum of their sizes.
    terms = mlp.w1.square().sum() * mlp.w2.square().sum() / sizes[0]
    torch.testing.assert_close(
        closed_form(x, mlp).double().square(),
        by_jacrev(x, in_double(mlp)).square(),
        rtol=2e-4,
        atol=1e-6 * float(terms),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), patches=st.integers(1, 4), eps=st.sampled_from([1e-6, 0.1]))
def test_patch_merger_matches_jacrev(seed, patches, eps):
    """The rank-one correction of the RMSNorm, with an epsilon that matters too."""
    mlp = random_mlp(seed, width=6 * patches)
    g = torch.Generator().manual_seed(seed)
    norm = torch.rand(6, generator=g) + 0.5
    x = torch.randn(4, 6 * patches, generator=g)

    def in_float64(row):
        parts = row.unflatten(-1, (patches, 6))
        parts = norm.double() * parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + eps)
        return in_double(mlp)(parts.flatten())

    merger = PatchMerger(norm, mlp, eps)
    torch.testing.assert_close(
        merger(x).double(), torch.stack([in_float64(r) for r in x.double()]), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        closed_form(x, merger).double(), by_jacrev(x, in_float64), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("block", [1, 7, 12, 40])
def test_the_block_size_of_the_kernel_has_no_influence(monkeypatch, block):
    """Only what stands left of the diagonal is multiplied, whatever the block size and its remainder."""
    monkeypatch.setattr("zoo_exp.core.closed_form.KERNEL_BLOCK", block)
    mlp = random_mlp(hidden=24)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        closed_form(x, mlp).double(), by_jacrev(x, in_double(mlp)), rtol=1e-4, atol=1e-6
    )
    merger = PatchMerger(torch.linspace(0.5, 1.5, 8), random_mlp(hidden=24))
    torch.testing.assert_close(closed_form(x, merger), jacobian_norm(x, merger), rtol=1e-4, atol=1e-6)


def test_other_projectors_take_automatic_differentiation(monkeypatch):
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(70, 16, generator=torch.Generator().manual_seed(1))

    def project(v):
        return torch.tanh(v @ weight.T)

    expected = by_jacrev(x, lambda v: torch.tanh(v @ weight.double().T))
    torch.testing.assert_close(closed_form(x, project).double(), expected, rtol=1e-4, atol=1e-6)
    whole = jacobian_norm(x, project)
    monkeypatch.setattr("zoo_exp.core.closed_form.WORKSPACE_BYTES", 50_000)
    torch.testing.assert_close(jacobian_norm(x, project), whole, rtol=1e-5, atol=0)
    assert jacobian_norm(x[:0], project).shape == (0,)


def test_low_rank_projector_has_a_closed_form_too():
    thin = low_rank(random_mlp(), 5)
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(closed_form(x, thin), jacobian_norm(x, thin), rtol=1e-4, atol=0)


def test_closed_form_is_the_limit_of_finite_differences():
    """Against 4096 directions the closed form ranks tokens better than 64 directions do."""
    mlp, g = random_mlp(width=64, hidden=128, out=96), torch.Generator().manual_seed(0)
    x = torch.randn(200, 64, generator=g) * (torch.rand(200, 1, generator=g) * 2)
    limit = zeroth_order(x, mlp, draw_directions(4096, 64, g), 0.01)
    few = zeroth_order(x, mlp, draw_directions(64, 64, g), 0.01)
    exact = closed_form(x, mlp)
    ratio = exact / limit
    assert (
        ratio - ratio.mean()
    ).abs().max() < 0.01  # the gap between mean length and root mean square is one factor
    assert 1 <= ratio.mean() < 1.02
    assert kendall_errors(exact, limit) < kendall_errors(few, limit)


def kendall_errors(a, b):
    """How many pairs of tokens the two orders disagree on."""
    return ((a[:, None] > a) != (b[:, None] > b)).sum().item()


def test_first_order_is_the_limit_of_finite_differences():
    mlp, g = random_mlp(), torch.Generator().manual_seed(0)
    x, directions = torch.randn(12, 16, generator=g), draw_directions(5, 16, g)
    small = zeroth_order(x, in_double(mlp), directions, 1e-4, dtype=torch.float64).float()
    torch.testing.assert_close(first_order(x, mlp, directions), small, rtol=1e-4, atol=0)


def test_the_kernel_is_computed_once_and_forgotten_with_the_mlp(monkeypatch):
    calls = []
    mlp = random_mlp()
    real = memo_module._VALUES
    from zoo_exp.core import closed_form as module

    kernel = module._mlp_kernel
    monkeypatch.setattr(module, "_mlp_kernel", lambda m: calls.append(1) or kernel(m))
    x = torch.zeros(3, 16)
    closed_form(x, mlp)
    closed_form(x, mlp)
    assert calls == [1]
    assert mlp in real
    alive = weakref.ref(mlp)
    del mlp
    gc.collect()
    assert alive() is None


def test_memo_keeps_one_value_per_owner_and_key():
    class Owner:
        pass

    a, b = Owner(), Owner()
    assert [
        memo(a, 1, lambda: "x"),
        memo(a, 1, lambda: "y"),
        memo(a, 2, lambda: "z"),
        memo(b, 1, lambda: "w"),
    ] == list("xxzw")


def test_bad_input_is_named():
    mlp = random_mlp()
    with pytest.raises(InvalidValueError, match=r"\[N, 16\], got shape \(3, 15\)"):
        closed_form(torch.zeros(3, 15), mlp)
    with pytest.raises(InvalidValueError, match="NaN or infinity in 1 of 3 rows, first row 2"):
        closed_form(torch.tensor([[0.0], [0.0], [torch.nan]]).expand(3, 16), mlp)
    with pytest.raises(InvalidValueError, match=r"directions must be \[M, 16\], got shape \(2, 4\)"):
        first_order(torch.zeros(3, 16), mlp, torch.zeros(2, 4))
    with pytest.raises(InvalidValueError, match=r"norm \(5,\) must be \[Dp\] with Dp dividing the width 16"):
        PatchMerger(torch.ones(5), mlp)

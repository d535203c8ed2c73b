"""The diagonal of the closed form: against its definition, against the closed form, and where it is not used."""

import math

import pytest
import torch

from zoo_exp.core.closed_form import PatchMerger, closed_form
from zoo_exp.core.diagonal import AGREEMENT, agreement, calibrate, diagonal, first_layer, replaces_closed_form
from zoo_exp.core.low_rank import low_rank
from zoo_exp.core.normed import Norm, NormedMLP
from zoo_exp.core.sensitivity import MLP
from zoo_exp.errors import InvalidValueError

SIZES = {"width": 12, "hidden": 20, "out": 16}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp_of(width=12, hidden=20, out=16, seed=0, approximate="none"):
    g = gen(seed)
    w1 = torch.randn(hidden, width, generator=g) / math.sqrt(width)
    w2 = torch.randn(out, hidden, generator=g) / math.sqrt(hidden)
    return MLP(w1, torch.randn(hidden, generator=g) / 10, w2, torch.zeros(out), approximate)


def orthogonal_columns(hidden, seed=0):
    """W2 [hidden, hidden] with orthogonal columns of different lengths: W2^T W2 is diagonal."""
    q, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=gen(seed)))
    return q * (torch.rand(hidden, generator=gen(seed + 1)) + 0.5)


def normed_of(kind, seed=0, patches=1, hidden=20):
    d, g = 6, gen(seed)
    norm = None
    if kind != "none":
        bias = torch.randn(d, generator=g) / 5 if kind == "layer" else None
        norm = Norm(torch.rand(d, generator=g) + 0.5, bias, 1e-6, centred=kind == "layer")
    w1 = torch.randn(hidden, d * patches, generator=g)
    return NormedMLP(
        w1,
        torch.randn(hidden, generator=g) / 10,
        norm,
        torch.nn.functional.silu,
        orthogonal_columns(hidden, seed),
    )


def by_definition(x, w1, w2, slope):
    """sum_k g_k^2 |w2_k|^2 |w1_k|^2, one neuron after the other, in float64."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for k in range(len(w1)):
        total += slope[:, k].double() ** 2 * w2[:, k].double().norm() ** 2 * w1[k].double().norm() ** 2
    return (total / x.shape[1]).sqrt()


def slope_of(x, mlp):
    hidden = first_layer(x, mlp).double().requires_grad_()
    torch.nn.functional.gelu(hidden, approximate=mlp.approximate).sum().backward()
    return hidden.grad


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_an_mlp_matches_the_definition(approximate):
    mlp = mlp_of(approximate=approximate)
    x = torch.randn(9, 12, generator=gen(1))
    wanted = by_definition(x, mlp.w1, mlp.w2, slope_of(x, mlp))
    torch.testing.assert_close(diagonal(x, mlp).double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_without_correlations_it_is_the_closed_form(seed):
    """With orthogonal output weights K is diagonal, so nothing is neglected."""
    mlp = mlp_of(seed=seed)
    mlp = MLP(mlp.w1, mlp.b1, orthogonal_columns(20, seed), torch.zeros(20))
    x = torch.randn(7, 12, generator=gen(seed))
    torch.testing.assert_close(diagonal(x, mlp), closed_form(x, mlp), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patches", [1, 3])
@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
def test_with_a_norm_only_the_derivative_of_its_scale_is_neglected(kind, patches):
    """With orthogonal output weights, S^2 differs from the exact one by exactly the neglected term."""
    mlp = normed_of(kind, patches=patches)
    x = torch.randn(8, 6 * patches, generator=gen(2)) * 2
    neglected = torch.zeros(len(x))
    if mlp.norm is not None:
        normal, scale = mlp.norm.split(x)
        slope, lengths = mlp.slope_at(first_layer(x, mlp)), mlp.w2.square().sum(0)
        for p, part in enumerate(mlp.w1.split(6, dim=1)):
            along = (normal[:, p] @ (part * mlp.norm.weight).T).square() * slope.square() @ lengths
            factor = 2 / 6 - normal[:, p].square().sum(-1) / 36
            neglected += factor * along / scale[:, p, 0].square()
    difference = (diagonal(x, mlp).square() - closed_form(x, mlp).square()) * x.shape[1]
    torch.testing.assert_close(difference, neglected, rtol=1e-4, atol=1e-4)


def test_a_patch_merger_is_a_normed_mlp_with_gelu():
    mlp, norm = mlp_of(width=12), torch.rand(4, generator=gen()) + 0.5
    x = torch.randn(5, 12, generator=gen(1))
    same = NormedMLP(mlp.w1, mlp.b1, Norm(norm, None, 1e-6, False), torch.nn.functional.gelu, mlp.w2, mlp.b2)
    merger = PatchMerger(norm, mlp)
    torch.testing.assert_close(diagonal(x, merger), diagonal(x, same), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make", [mlp_of, lambda: PatchMerger(torch.ones(4), mlp_of()), lambda: normed_of("rms", patches=2)]
)
def test_the_hidden_layer_may_be_given(make):
    mlp, x = make(), torch.randn(5, 12, generator=gen(1))
    assert torch.equal(diagonal(x, mlp, first_layer(x, mlp)), diagonal(x, mlp))
    with pytest.raises(InvalidValueError, match="5 rows"):
        diagonal(x, mlp, first_layer(x, mlp)[:4])


@pytest.mark.parametrize("make", [mlp_of, lambda: normed_of("layer", patches=2), lambda: normed_of("rms")])
def test_blocks_of_tokens_change_no_bit(make, monkeypatch):
    mlp = make()
    x = torch.randn(67, mlp.width, generator=gen(3))
    whole = diagonal(x, mlp)
    monkeypatch.setattr("zoo_exp.core.diagonal.BLOCK", 16 * 20)
    assert torch.equal(diagonal(x, mlp), whole)
    assert torch.equal(diagonal(x, mlp, first_layer(x, mlp)), whole)


def test_wide_random_projectors_rank_tokens_alike():
    mlp = mlp_of(256, 1024, 1024)
    x = torch.randn(64, 256, generator=gen(3)) * (torch.rand(64, 1, generator=gen(4)) + 0.2) * 2
    assert agreement(x, mlp) > AGREEMENT
    assert calibrate(x, mlp) == agreement(x, mlp)
    assert replaces_closed_form(mlp)


def test_a_projector_of_correlated_neurons_is_found_out():
    """Two groups of equal neurons that cancel each other's output: the diagonal cannot see that."""
    mlp = mlp_of(12, 20, 16)
    w1, b1 = mlp.w1.repeat(2, 1), mlp.b1.repeat(2)
    sign = torch.where(torch.rand(20, generator=gen(5)) < 0.5, -0.98, 1.0)
    cancelling = MLP(w1, b1, torch.cat([mlp.w2, mlp.w2 * sign], dim=1), mlp.b2)
    x = torch.randn(40, 12, generator=gen(6))
    assert replaces_closed_form(cancelling)  # not measured yet
    assert calibrate(x, cancelling) < AGREEMENT
    assert not replaces_closed_form(cancelling)


def test_a_reduced_projector_uses_its_low_rank_weights():
    mlp = mlp_of(12, 20, 16)
    x, reduced = torch.randn(6, 12, generator=gen(1)), low_rank(mlp, 3)
    inner = getattr(reduced, "reduced", reduced)
    torch.testing.assert_close(diagonal(x, reduced), diagonal(x, inner))


@pytest.mark.parametrize(
    "projector", [torch.nn.Identity(), NormedMLP(torch.randn(4, 12))], ids=["function", "linear"]
)
def test_other_projectors_are_refused_with_the_estimator_that_works(projector):
    with pytest.raises(InvalidValueError, match="estimator=closed_form"):
        diagonal(torch.randn(3, 12), projector)

"""Closed forms of projectors with a norm, against automatic differentiation of PyTorch modules."""

import pytest
import torch
from torch import nn

from zoo_exp.core.closed_form import closed_form, jacobian_norm
from zoo_exp.core.normed import Norm, NormedMLP, rowwise_jacobian_square
from zoo_exp.errors import InvalidValueError

WIDTH, HIDDEN, OUT = 12, 10, 7
ACTIVATIONS = {"gelu": nn.GELU(), "silu": nn.SiLU(), "relu": nn.ReLU()}


def projector(norm, patches, act, seed=0):
    """A projector, and the same as a stock module."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    d = WIDTH // patches
    weight, bias = draw(d), draw(d)
    w1, b1, w2, b2 = draw(HIDDEN, WIDTH), draw(HIDDEN), draw(OUT, HIDDEN), draw(OUT)
    front = {"none": None, "layer": Norm(weight, bias, 1e-5, True), "rms": Norm(weight, None, 1e-5, False)}[
        norm
    ]
    ours = NormedMLP(w1, b1, front) if act is None else NormedMLP(w1, b1, front, ACTIVATIONS[act], w2, b2)

    def stock(x):
        if norm != "none":
            parts = x.unflatten(-1, (patches, d))
            if norm == "layer":
                parts = nn.functional.layer_norm(parts, (d,), weight, bias, 1e-5)
            else:
                parts = nn.functional.rms_norm(parts, (d,), weight, 1e-5)
            x = parts.flatten(-2)
        hidden = nn.functional.linear(x, w1, b1)
        return hidden if act is None else nn.functional.linear(ACTIVATIONS[act](hidden), w2, b2)

    return ours, stock


@pytest.mark.parametrize("act", [None, *ACTIVATIONS])
@pytest.mark.parametrize("patches", [1, 3])
@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_values_and_sensitivities_are_those_of_the_stock_modules(norm, patches, act):
    ours, stock = projector(norm, patches, act)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 + 0.3
    torch.testing.assert_close(ours(x), stock(x))
    torch.testing.assert_close(closed_form(x, ours), jacobian_norm(x, stock), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        rowwise_jacobian_square(x, stock).sqrt() / WIDTH**0.5, jacobian_norm(x, stock), rtol=1e-4, atol=1e-5
    )


def test_a_linear_layer_has_a_constant_sensitivity():
    linear, _ = projector("none", 1, None)
    assert linear.constant
    scores = closed_form(torch.randn(4, WIDTH), linear)
    assert torch.equal(scores, scores[:1].expand(4))
    assert not projector("rms", 1, None)[0].constant
    assert not projector("none", 1, "gelu")[0].constant


@pytest.mark.parametrize(
    "broken",
    [
        {"w1": torch.ones(3)},
        {"w1": torch.ones(3, 4), "norm": Norm(torch.ones(3), None, 0.0, True)},
        {"w1": torch.ones(3, 4), "act": nn.GELU()},
        {"w1": torch.ones(3, 4), "act": nn.GELU(), "w2": torch.ones(2, 4)},
    ],
)
def test_layers_that_do_not_fit_are_refused(broken):
    with pytest.raises(InvalidValueError):
        NormedMLP(**broken)

"""The projector's hidden layer is captured where it runs, and the calibration does not depend on the images."""

import warnings
from dataclasses import replace

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.closed_form import closed_form
from zoo_exp.core.diagonal import first_layer, replaces_closed_form
from zoo_exp.models.families import adapter_for
from zoo_exp.models.tiny import tiny_inputs, tiny_model

SHAPES = {
    "llava": (((56, 56),), ((56, 56), (56, 56))),
    "llava_next": (((56, 100),), ((112, 112), (60, 40))),
    "qwen2_5_vl": (((56, 84),), ((84, 84), (56, 56))),
}
DIAGONAL = selectors.get("zoo", estimator="diagonal")


@pytest.fixture(scope="module", params=SHAPES)
def encoded(request):
    model = tiny_model(request.param)
    adapter = adapter_for(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so narrow a random projector may fail the calibration
        rows = adapter.encode(tiny_inputs(model, SHAPES[request.param]), DIAGONAL.captures)
    return adapter, [image for row in rows for image in row]


def generator():
    return torch.Generator().manual_seed(0)


def test_the_hidden_layer_belongs_to_its_tokens(encoded):
    _, images = encoded
    assert len(images) == 3
    for image in images:
        wanted = first_layer(image.features, image.mlp)
        real = torch.ones(image.count, dtype=torch.bool) if image.tile is None else image.tile >= 0
        torch.testing.assert_close(image.preactivation[real], wanted[real], rtol=1e-4, atol=1e-4)


def test_selections_do_not_depend_on_the_capture(encoded, monkeypatch):
    monkeypatch.setattr("zoo_exp.selectors.zoo.replaces_closed_form", lambda mlp: True)
    for image in encoded[1]:
        kept = DIAGONAL.select(image, "50%", generator()).indices
        again = DIAGONAL.select(replace(image, preactivation=None), "50%", generator()).indices
        assert torch.equal(kept, again)


def test_flops_count_the_first_layer_only_if_it_runs_again(encoded):
    image = encoded[1][0]
    inner = getattr(image.mlp, "mlp", image.mlp)
    saved = DIAGONAL.flops(replace(image, preactivation=None), 3) - DIAGONAL.flops(image, 3)
    assert saved == 2 * image.count * inner.w1.numel()
    exact = selectors.get("zoo", estimator="closed_form")
    assert DIAGONAL.flops(image, 3) < exact.flops(image, 3)


def test_a_projector_that_ranks_differently_gets_the_closed_form():
    """Neurons in pairs that cancel each other: the calibration says so once, and the closed form is used."""
    model = tiny_model("llava")
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    half = len(first.weight) // 2
    with torch.no_grad():
        first.weight[half:], first.bias[half:] = first.weight[:half], first.bias[:half]
        sign = torch.where(torch.rand(half, generator=generator()) < 0.5, -0.98, 1.0)
        second.weight[:, half:] = second.weight[:, :half] * sign
    adapter, inputs = adapter_for(model), tiny_inputs(model)
    with pytest.warns(UserWarning, match="rank correlation with the closed form"):
        image = adapter.encode(inputs, DIAGONAL.captures)[0][0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.encode(inputs, DIAGONAL.captures)
    assert not replaces_closed_form(image.mlp)
    assert torch.equal(DIAGONAL.score(image, generator()), closed_form(image.features, image.mlp))


def test_it_is_captured_for_the_diagonal_form_only(encoded):
    adapter, _ = encoded
    assert "preactivation" in DIAGONAL.captures
    for name, options in (("zoo", {}), ("zoo", {"estimator": "closed_form"}), ("divprune", {})):
        needs = selectors.get(name, **options).captures
        assert "preactivation" not in needs
        assert "hidden_layer" not in adapter.taps(needs)

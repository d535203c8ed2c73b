"""The projector that is found in any family, what ZOO makes of it, and what is refused where there is none."""

import warnings

import pytest
import torch
from tiny_families import tiny_family, tiny_prompt

import zoo_exp
from zoo_exp.core.closed_form import closed_form, jacobian_norm
from zoo_exp.core.normed import NormedMLP
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for
from zoo_exp.models.generic_projector import row_source

NEEDS = frozenset({"features", "projector"})
CLOSED = ("gemma3", "internvl", "lfm2_vl", "llava_onevision", "mistral3", "qwen3_vl", "vipllava")
DIFFERENTIATED = ("aya_vision", "glm4v")
LINEAR = ("paligemma", "smolvlm")
NONE = ("fuyu", "idefics2", "ovis2")


def encoded(model, rows=(2,)):
    """Visual tokens of the images of one prompt."""
    return adapter_for(model).encode(tiny_prompt(model, rows), NEEDS)[0]


def rows_of(tokens):
    """Which tokens are no newlines."""
    return torch.ones(tokens.count, dtype=torch.bool) if tokens.tile is None else tokens.tile >= 0


@pytest.mark.parametrize("model_type", [*CLOSED, *DIFFERENTIATED, *LINEAR])
def test_the_projector_gives_what_the_language_model_reads(model_type):
    for tokens in encoded(tiny_family(model_type)):
        real = rows_of(tokens)
        assert tokens.features is not None
        for project in (tokens.project, tokens.mlp):
            out = project(tokens.features.float())
            torch.testing.assert_close(out[real], tokens.projected[real], rtol=1e-4, atol=1e-5)
        several = tokens.project(
            tokens.features.float().expand(3, -1, -1)
        )  # directions of the finite differences
        torch.testing.assert_close(several[1][real], tokens.projected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", [*CLOSED, *DIFFERENTIATED, *LINEAR])
def test_sensitivity_is_that_of_automatic_differentiation(model_type):
    tokens = encoded(tiny_family(model_type))[-1]
    x = tokens.features[rows_of(tokens)][:3].float()
    assert isinstance(tokens.mlp, NormedMLP) == (model_type not in DIFFERENTIATED)

    def alone(row):
        return tokens.project(row[None])[0]

    jacobians = torch.stack([torch.autograd.functional.jacobian(alone, row) for row in x])
    expected = jacobians.pow(2).sum(dim=(1, 2)).sqrt() / x.shape[1] ** 0.5
    torch.testing.assert_close(closed_form(x, tokens.mlp), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model_type", LINEAR)
def test_a_linear_projector_warns_and_zoo_equals_divprune(model_type):
    tokens = encoded(tiny_family(model_type))[0]
    assert tokens.mlp.constant
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    with pytest.warns(UserWarning, match=r"linear.*same sensitivity.*divprune"):
        scores = zoo_exp.selectors.get("zoo").score(tokens, generators[0])
    assert torch.equal(scores, scores[:1].expand_as(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        closed = zoo_exp.selectors.get("zoo", estimator="closed_form").score(tokens, generators[1])
    assert torch.equal(scores, closed)


@pytest.mark.parametrize("model_type", NONE)
def test_without_a_projector_zoo_is_refused_and_others_work(model_type):
    model = tiny_family(model_type)
    given = tiny_prompt(model)
    with (
        zoo_exp.pruned(model, "zoo", 1),
        pytest.raises(
            InvalidValueError, match=rf"'{model_type}' does not give.*Selectors that work:.*divprune"
        ),
    ):
        model(**given)
    with zoo_exp.pruned(model, "divprune", 1) as pruning, torch.no_grad():
        model(**given)
    assert sum(pruning.kept_tokens) == 1


def test_attention_of_an_encoder_is_refused_with_what_works():
    model = tiny_family("internvl")
    with (
        zoo_exp.pruned(model, "visionzip", 2),
        pytest.raises(
            InvalidValueError, match=r"'internvl' does not give.*Selectors that work: (?!.*visionzip)"
        ),
    ):
        model(**tiny_prompt(model))


@pytest.mark.parametrize("model_type", ["internvl", "qwen3_vl", "aya_vision"])
def test_half_precision_scores_are_those_of_float32(model_type):
    """Finite differences in half precision would round the step away: the projector runs in float32."""
    model = tiny_family(model_type).to(torch.bfloat16)
    tokens = encoded_half(model)
    assert tokens.projected.dtype == torch.bfloat16
    x = tokens.features.float()
    zoo = zoo_exp.selectors.get("zoo", n_directions=2048)
    scores = zoo.score(tokens, torch.Generator().manual_seed(0))
    exact = closed_form(x, tokens.mlp)
    torch.testing.assert_close(scores, exact, rtol=0.1, atol=0)


def encoded_half(model):
    """Visual tokens of one image of a model in bfloat16."""
    given = tiny_prompt(model.float())
    model.to(torch.bfloat16)
    return adapter_for(model).encode({**given, "pixel_values": given["pixel_values"].bfloat16()}, NEEDS)[0][0]


def test_weights_that_change_are_read_again():
    model = tiny_family("internvl")
    adapter = adapter_for(model)
    given = tiny_prompt(model)
    before = adapter.encode(given, NEEDS)[0][0]
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(2)
    after = adapter.encode(given, NEEDS)[0][0]
    torch.testing.assert_close(after.mlp(after.features), after.projected, rtol=1e-4, atol=1e-5)
    assert after.mlp is not before.mlp
    again = adapter.encode(given, NEEDS)[0][0]
    assert again.mlp is after.mlp


def test_rows_are_traced_through_a_new_order_and_newlines():
    given = torch.randn(6, 4)
    newline = torch.randn(4)
    rows = torch.stack([given[3], newline, given[0], given[5]])
    assert row_source(rows, given, newline).tolist() == [3, -1, 0, 5]
    assert row_source(rows, given, None) is None
    assert row_source(given, given, None).tolist() == list(range(6))


def test_a_family_with_newlines_has_tiles():
    tokens = encoded(tiny_family("llava_onevision"), (1,))[0]
    assert isinstance(tokens, VisualTokens)
    assert set(tokens.tile.tolist()) == {-1, 0, 1, 2}
    assert (tokens.features[tokens.tile < 0] == 0).all()
    torch.testing.assert_close(
        closed_form(tokens.features[:2], tokens.mlp),
        jacobian_norm(tokens.features[:2], tokens.mlp),
        rtol=1e-4,
        atol=0,
    )

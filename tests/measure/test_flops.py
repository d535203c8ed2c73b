"""Analytic FLOPs against torch's own counter, on a tiny model of every family."""

from types import SimpleNamespace

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.sensitivity import MLP
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.cost_model import CostModel, selector_flops
from zoo_exp.measure.counter import count_flops
from zoo_exp.models.families import adapter_for, architecture
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.models.tiny import tiny_inputs, tiny_model
from zoo_exp.selectors.base import ScoreSelector
from zoo_exp.selectors.layer.fastv import FastV

SHAPES = {
    "llava": [(56, 56)],
    "llava_next": [(56, 56), (112, 112), (100, 60), (56, 150)],
    "qwen2_5_vl": [(56, 56), (84, 140), (224, 28), (168, 196)],
}
CASES = [(family, shape) for family, shapes in SHAPES.items() for shape in shapes]
NEEDS = frozenset({"features", "projector"})


@pytest.fixture(scope="module")
def adapters():
    return {family: adapter_for(tiny_model(family)) for family in SHAPES}


def close(analytic, counted):
    return abs(analytic - counted) <= 0.01 * counted


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_encoder_and_projector_agree_with_the_counter(adapters, family, shape):
    adapter = adapters[family]
    inputs = tiny_inputs(adapter.model, [[shape]])
    counted = count_flops(lambda: adapter.encode(inputs, frozenset()))
    (images,) = adapter.encode(inputs, frozenset())
    assert close(CostModel(adapter.model.config).encode(images).total, counted)


@pytest.mark.parametrize("new_tokens", [1, 5])
@pytest.mark.parametrize(("family", "shape"), CASES)
def test_prefill_and_decoding_agree_with_the_counter(adapters, family, shape, new_tokens):
    adapter = adapters[family]
    inputs = tiny_inputs(adapter.model, [[shape]])
    tokens = adapter.encode(inputs, frozenset())
    selector, generator = selectors.get("uniform_grid"), torch.Generator()
    kept = [[selector.select(image, "50%", generator) for image in row] for row in tokens]
    prompt = prune_prompt(adapter, inputs, tokens, kept)
    counted = count_flops(
        lambda: generate_pruned(adapter.model, prompt, max_new_tokens=new_tokens, do_sample=False)
    )
    costs, length = CostModel(adapter.model.config), prompt.inputs_embeds.shape[1]
    assert close(costs.prefill(length) + costs.decode(length, new_tokens), counted)


@pytest.mark.parametrize("family", SHAPES)
def test_a_layer_selector_agrees_layer_by_layer(adapters, family):
    adapter = adapters[family]
    inputs = tiny_inputs(adapter.model, [[SHAPES[family][-1]]], text=(9, 30))
    tokens = adapter.encode(inputs, frozenset())
    full = selectors.get("full")
    kept = [[full.select(image, None, torch.Generator()) for image in row] for row in tokens]
    prompt = prune_prompt(adapter, inputs, tokens, kept)
    answers = []
    options = {"max_new_tokens": 4, "do_sample": False}
    counted = count_flops(
        lambda: answers.append(generate_layer_pruned(adapter, prompt, FastV(), "25%", **options))
    )
    (answer,) = answers
    text = prompt.inputs_embeds.shape[1] - prompt.kept_tokens[0]
    lengths = [text + count for count in answer.counts[0]]
    assert min(lengths) < max(lengths)
    costs = CostModel(adapter.model.config)
    assert close(costs.prefill(lengths) + costs.decode(lengths, 4), counted)


def test_one_length_for_all_layers_is_the_same_as_the_length_itself(adapters):
    costs = CostModel(adapters["llava"].model.config)
    assert costs.prefill([17] * 4) == costs.prefill(17)
    assert costs.decode([17] * 4, 6) == costs.decode(17, 6)
    assert costs.decode(17, 1) == 0


ARMS = {
    "divprune": {},
    "zoo": {},
    "zoo_closed": {"estimator": "closed_form"},
    "zoo_low_rank": {"projector": "low_rank", "rank": 5},
    "zoo_closed_low_rank": {"estimator": "closed_form", "projector": "low_rank", "rank": 5},
    "zoo_none": {"fusion": "none", "n_directions": 7},
    "zoo_diversity": {"fusion": "diversity"},
    "zoo_norm": {"estimator": "feature_norm"},
    "zoo_half": {"dtype": "bfloat16", "n_directions": 7},
    "zoo_half_low_rank": {"dtype": "bfloat16", "projector": "low_rank", "rank": 5},
    "zoo_released": {"variant": "official_code", "dtype": "float32", "newline": "as_released"},
    "random": {},
    "uniform_grid": {},
    "feature_norm": {},
}


@pytest.mark.parametrize(
    ("family", "arm"),
    # Qwen2.5-VL's merger has no low-rank form.
    [
        (family, arm)
        for family in SHAPES
        for arm in ARMS
        if not (family == "qwen2_5_vl" and "low_rank" in arm)
    ],
)
def test_selector_flops_agree_with_the_counter(adapters, family, arm):
    adapter = adapters[family]
    selector = selectors.get(arm.split("_")[0] if arm not in selectors.available() else arm, **ARMS[arm])
    inputs = tiny_inputs(adapter.model, [[SHAPES[family][-1]]])
    ((image,),) = adapter.encode(inputs, NEEDS)

    def select():
        with torch.no_grad():
            selector.select(image, 5, torch.Generator().manual_seed(0))

    select()  # what is computed once per model is not counted
    counted = count_flops(select)
    analytic = selector_flops(selector, image, 5)
    assert close(analytic, counted), (analytic, counted)


def test_tiles_compete_among_themselves_where_the_budget_says_so(adapters):
    from zoo_exp.core.budget import Budget

    adapter, divprune = adapters["llava_next"], selectors.get("divprune")
    ((image,),) = adapter.encode(tiny_inputs(adapter.model, [[(112, 112)]]), frozenset())
    budget = Budget(count=3, per="tile")
    counted = count_flops(lambda: divprune.select(image, budget, torch.Generator()))
    assert close(selector_flops(divprune, image, budget), counted)
    assert counted < selector_flops(divprune, image, 15)


def test_pairs_of_many_tokens_are_counted_by_half():
    g = torch.Generator().manual_seed(0)
    tokens, divprune = VisualTokens(projected=torch.randn(576, 24, generator=g)), selectors.get("divprune")
    counted = count_flops(lambda: divprune.select(tokens, 64, g))
    assert close(selector_flops(divprune, tokens, 64), counted)
    assert counted < 0.7 * 2 * 576 * 576 * 24


class WithFormula(ScoreSelector):
    """A selector with a formula."""

    def score(self, tokens, generator):
        """The first feature."""
        return tokens.projected[:, 0]

    def flops(self, tokens, budget):
        """Whatever."""
        return tokens.count * budget


class OtherScores(WithFormula):
    """A subclass that scores in another way and leaves the formula."""

    def score(self, tokens, generator):
        """A product."""
        return (tokens.projected @ tokens.projected.T)[0]


class OtherName(WithFormula):
    """A subclass that only has another name."""

    name = "other"


def test_flops_come_from_the_selector_or_are_unknown():
    tokens = VisualTokens(projected=torch.zeros(7, 3))
    assert selector_flops(WithFormula(), tokens, 5) == 35
    assert selector_flops(OtherScores(), tokens, 5) is None  # the formula is not about its work
    assert selector_flops(OtherName(), tokens, 5) == 35
    assert selector_flops(SimpleNamespace(name="mine"), tokens, 5) is None
    assert selector_flops(selectors.get("zoo", estimator="first_order"), tokens, 5) is None
    assert selector_flops(selectors.get("zoo"), tokens, 5) is None  # without the projector's weights


def test_stages_add_up_to_the_answer(adapters):
    adapter = adapters["llava"]
    costs = CostModel(adapter.model.config)
    ((image,),) = adapter.encode(tiny_inputs(adapter.model), NEEDS)
    zoo = selectors.get("zoo")
    stages = costs.stages([image], 20, 3, zoo, 5)
    assert stages.select == selector_flops(zoo, image, 5) > 0
    assert stages.total == costs.encode([image]).total + stages.select + costs.prefill(20) + costs.decode(
        20, 3
    )
    assert costs.stages([image], 20, 3, SimpleNamespace(name="mine")).select is None
    assert costs.stages([], 20, 3).total == costs.prefill(20) + costs.decode(20, 3)


def test_counts_from_the_number_of_tokens_are_those_of_the_images(adapters):
    for family, shape in (("llava", (56, 56)), ("llava_next", (112, 112)), ("qwen2_5_vl", (112, 112))):
        adapter = adapters[family]
        ((image,),) = adapter.encode(tiny_inputs(adapter.model, [[shape]]), frozenset())
        costs = CostModel(adapter.model.config)
        exact = costs.encode([image])
        # A packed image has newlines on top of its tiles: one tile too many at this size, none at the real one.
        guess = costs.vision.guess(
            image.count - (image.tile == -1).sum().item() if family == "llava_next" else image.count
        )
        assert guess == exact, family


@pytest.mark.parametrize(
    ("name", "length", "tflop"),
    [
        ("llava-hf/llava-1.5-7b-hf", 640, 8.504),
        ("llava-hf/llava-1.5-7b-hf", 2940, 42.61),
        ("llava-hf/llava-1.5-13b-hf", 252, 6.447),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 640, 8.517),
    ],
)
def test_flops_of_prefill_at_real_size(name, length, tflop):
    costs = CostModel(architecture(name))
    assert (costs.prefill(length) - costs.head()) / 1e12 == pytest.approx(tflop, rel=2e-4)


def test_stages_at_real_size():
    costs = CostModel(architecture("llava-hf/llava-1.5-7b-hf"))
    assert costs.encoder(576) / 1e12 == pytest.approx(0.382, rel=5e-3)
    assert costs.projector(576) == 2 * 576 * (1024 * 4096 + 4096 * 4096)
    next_costs = CostModel(architecture("llava-hf/llava-v1.6-vicuna-7b-hf"))
    assert next_costs.encoder(2880) == 5 * costs.encoder(576)


def test_a_model_type_that_cannot_be_pruned_is_refused():
    config = SimpleNamespace(model_type="blip", get_text_config=lambda: None)
    with pytest.raises(InvalidValueError, match="blip"):
        CostModel(config)


@pytest.mark.parametrize(
    ("options", "tflop"),
    [
        ({"dtype": "float16"}, 3.09),  # the release: 59 % of what 192 tokens save
        ({"dtype": "float16", "projector": "low_rank"}, 0.25),
        ({}, 0.701),  # with the first layer shared (1.24), and of W2's triangle eight steps of it
        ({"estimator": "closed_form"}, 0.0157),  # of the kernel (0.0242 with all of it) its stairs
    ],
)
def test_flops_of_sensitivity_at_real_size(options, tflop):
    def empty(*shape):
        return torch.empty(*shape, device="meta")

    mlp = MLP(empty(4096, 1024), empty(4096), empty(4096, 4096), empty(4096))
    image = VisualTokens(projected=empty(576, 4096), features=empty(576, 1024), mlp=mlp)
    zoo = selectors.get("zoo", fusion="none", **options)
    assert selector_flops(zoo, image, 64) / 1e12 == pytest.approx(tflop, rel=0.02)

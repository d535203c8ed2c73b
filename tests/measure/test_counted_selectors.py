"""FLOPs of selectors in records equal torch's count, for every selector and family."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.measure.cost_model import CostModel
from zoo_exp.measure.counted_selectors import CountedLayerSelector, SelectorCosts
from zoo_exp.measure.counter import count_flops
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.models.tiny import tiny_inputs, tiny_model
from zoo_exp.selectors.base import ScoreSelector
from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector

SHAPES = {
    "llava": [(56, 56)],
    "llava_next": [(112, 112), (56, 150)],
    "qwen2_5_vl": [(84, 140), (168, 196)],
}
INPUT = {
    "cdpruner": {}, "cls_attention": {}, "divprune": {}, "feature_norm": {}, "hiprune": {},
    "hiprune layer": {"object_layer": 1}, "mmtok": {}, "resize": {}, "text_attention": {}, "uniform_grid": {},
    "vispruner": {}, "visionzip": {"contextual_share": 0.4}, "zoo": {}, "zoo first_order": {"estimator": "first_order"},
    "zoo layer": {"layer": 1, "n_directions": 3},
}  # fmt: skip
LAYERS = {
    "fastv": {}, "fastv all": {"rule": "all_tokens"}, "dart": {}, "dart far": {"k": 1, "image_pivots": 2},
    "sparsevlm": {}, "sparsevlm 2": {"version": "2.0"},
}  # fmt: skip


@pytest.fixture(scope="module")
def adapters():
    return {family: adapter_for(tiny_model(family)) for family in SHAPES}


def prepared(adapter, family, shape, selector):
    inputs = tiny_inputs(adapter.model, [[shape]], text=(9, 30))
    ((image,),) = adapter.encode(inputs, selector.needs)
    return image


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("arm", INPUT)
def test_input_selectors_cost_what_torch_counts(adapters, family, arm):
    selector, adapter = selectors.get(arm.split()[0], **INPUT[arm]), adapters[family]
    if family == "qwen2_5_vl" and arm in ("cls_attention", "visionzip", "vispruner"):
        selector = selectors.get(arm, attention="received", **INPUT[arm])
    costs, counted = SelectorCosts(), []
    for shape in SHAPES[family]:
        image = prepared(adapter, family, shape, selector)
        if not all(image.has(need) for need in selector.needs) or (arm == "resize" and image.grid is None):
            pytest.skip(f"{family} has no {sorted(selector.needs)}")
        with torch.inference_mode():
            run = lambda image=image: selector.select(image, 5, torch.Generator().manual_seed(1))  # noqa: E731
            run()
            counted.append(count_flops(run))
            found = costs.of(selector, [image], 5)
            assert costs.of(selector, [image, image], 5) == 2 * found
        assert found == pytest.approx(counted[-1], rel=0.01)
    if arm not in ("cls_attention", "feature_norm", "hiprune", "uniform_grid"):
        assert min(counted) > 0
    if min(counted) and arm != "resize":  # whose small image is the same
        assert len(set(counted)) == len(counted)  # other shapes, other costs


@dataclass(frozen=True)
class Mine(ScoreSelector):
    """A custom selector whose cost depends on the image's content."""

    name: ClassVar[str] = "mine"
    calls: ClassVar[list[int]] = []

    def score(self, tokens, generator):
        """A product of as many rows as there are positive tokens."""
        self.calls.append(1)
        rows = tokens.projected[tokens.projected[:, 0] > 0]
        return tokens.projected @ rows.mean(0) + (rows @ rows.T).sum()


def test_a_custom_selector_is_counted_image_by_image(adapters):
    images = [adapters["llava"].encode(tiny_inputs(adapters["llava"].model, [[(56, 56)]], seed=s), frozenset())[0][0]
              for s in (0, 1, 2)]  # fmt: skip
    counted = [count_flops(lambda i=i: Mine().select(i, 4, torch.Generator())) for i in images]
    assert len(set(counted)) > 1
    assert [SelectorCosts().of(Mine(), [i], 4) for i in images] == counted
    costs = SelectorCosts()
    assert sum(costs.of(Mine(), [i], 4) for i in images) == sum(counted)


def test_a_shape_is_counted_once(adapters, monkeypatch):
    from zoo_exp.measure import counted_selectors

    vispruner = selectors.get("vispruner")
    image = prepared(adapters["llava"], "llava", (56, 56), vispruner)
    costs = SelectorCosts()
    first = costs.of(vispruner, [image], 5)
    monkeypatch.setattr(counted_selectors, "count_flops", None)
    assert costs.of(vispruner, [image, image], 5) == 2 * first
    with pytest.raises(TypeError):
        costs.of(vispruner, [image], 6)  # another budget is another cost


def generated(adapter, shapes, rule, text=(9, 30)):
    inputs = tiny_inputs(adapter.model, [[shape] for shape in shapes], text=text)
    tokens = adapter.encode(inputs, frozenset())
    full = selectors.get("full")
    kept = [[full.select(image, None, torch.Generator()) for image in row] for row in tokens]
    prompt = prune_prompt(adapter, inputs, tokens, kept)
    counts = generate_layer_pruned(adapter, prompt, rule, "33.3%", max_new_tokens=2, do_sample=False).counts
    return prompt, counts


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("arm", LAYERS)
def test_layer_selectors_cost_what_torch_counts(adapters, family, arm):
    adapter, shape = adapters[family], SHAPES[family][-1]
    text = adapter.model.config.get_text_config()
    selector = selectors.get(arm.split()[0], **LAYERS[arm])
    rule = CountedLayerSelector(selector, text)
    answers = []
    counted = count_flops(lambda: answers.append(generated(adapter, [shape], rule)))
    prompt, counts = answers[0]
    behind = prompt.inputs_embeds.shape[1] - prompt.kept_tokens[0]
    lengths = [behind + count for count in counts[0]]
    inputs = tiny_inputs(adapter.model, [[shape]], text=(9, 30))
    encoder = count_flops(lambda: adapter.encode(inputs, frozenset()))
    costs = CostModel(adapter.model.config)
    own = counted - encoder - costs.prefill(lengths) - costs.decode(lengths, 2)
    assert rule.flops == [pytest.approx(own, rel=0.01)]
    assert own > 0


def test_padding_is_not_counted(adapters):
    adapter = adapters["llava"]
    config = adapter.model.config.get_text_config()
    alone = []
    for text in ((9, 9), (9, 30)):
        rule = CountedLayerSelector(selectors.get("fastv"), config)
        generated(adapter, [(56, 56)], rule, text=text)
        alone += rule.flops
    together = CountedLayerSelector(selectors.get("fastv"), config)
    generated(adapter, [(56, 56), (56, 56)], together, text=(9, 9, 30))
    assert together.flops == alone
    assert alone[0] < alone[1]


@dataclass(frozen=True)
class MyLayers(LayerSelector):
    """A user's layer selector with products of its own."""

    name: ClassVar[str] = "mine_inside"

    def layers(self, n_layers):
        """The second."""
        return (1,)

    def schedule(self, budget, n_visual, n_layers):
        """Four."""
        return {1: 4}

    def start(self, prompt):
        """All with all."""
        return prompt.embeds @ prompt.embeds.T

    def pick(self, view, count, state):
        """The first ones."""
        view.attention(torch.arange(3))
        view.hidden @ view.hidden.T
        return LayerAnswer(torch.arange(count))


def test_a_custom_layer_selector_is_counted(adapters):
    adapter = adapters["llava"]
    config = adapter.model.config.get_text_config()
    rule = CountedLayerSelector(MyLayers(), config)
    prompt, _ = generated(adapter, [(56, 56)], rule)
    n, width = prompt.inputs_embeds.shape[1:]
    assert rule.flops == [2 * 2 * n * n * width + 2 * 3 * n * width]

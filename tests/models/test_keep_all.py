"""Keeping every token is bit-identical, also through the gather path."""

import pytest
import torch
from own_families import FAMILIES

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.engine import Engine
from zoo_exp.models.families import adapter_for
from zoo_exp.models.image_tap import ImageTap
from zoo_exp.selectors import get
from zoo_exp.selectors.layer.fastv import FastV

MODES = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "static beams": {"num_beams": 2, "cache_implementation": "static"},
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gathering_every_token_is_bit_identical(
    family, layout, mode, attention, models, inputs, answer, mixes_up_images
):
    model = models(family, attention)
    given = inputs(model, layout)
    if "beams" in mode and layout == "ragged" and mixes_up_images(family):
        with zoo_exp.pruned(model, "full"), pytest.raises(InvalidValueError, match="to the wrong rows"):
            answer(model, given, steps=4, **MODES[mode])
        return
    ids, logits = answer(model, given, steps=4, **MODES[mode])
    adapter = adapter_for(model)
    engine = Engine(adapter, ImageTap(adapter, get("full"), None, 0), None, adapter.positions, force=True)
    engine.attach()
    try:
        pruned_ids, pruned_logits = answer(model, given, steps=4, **MODES[mode])
    finally:
        engine.detach()
    assert torch.equal(pruned_ids, ids)
    assert torch.equal(pruned_logits, logits)


@pytest.mark.parametrize("selector", ["zoo", "divprune", "random", "fastv", "dart"])
@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_keep_ratio_of_one_is_bit_identical(
    family, mode, layout, selector, models, inputs, answer, mixes_up_images
):
    """Newlines of LLaVA-NeXT included: 1.0 is every token."""
    if "beams" in mode and layout == "ragged" and mixes_up_images(family):
        pytest.skip("this version of transformers gives beams the wrong images")
    model = models(family)
    given = inputs(model, layout)
    ids, logits = answer(model, given, steps=3, **MODES[mode])
    with zoo_exp.pruned(model, selector, 1.0) as pruning:
        pruned_ids, pruned_logits = answer(model, given, steps=3, **MODES[mode])
    assert torch.equal(pruned_ids, ids)
    assert torch.equal(pruned_logits, logits)
    every = (given["input_ids"] == model.config.image_token_id).sum(1)
    copies = len(pruning.kept_tokens) // len(every)
    assert pruning.kept_tokens == every.repeat_interleave(copies).tolist()


@pytest.mark.parametrize("selector", ["full", FastV(k=2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_public_keep_all_is_bit_identical_in_half_precision_too(family, selector, models, inputs, answer):
    model = models(family, dtype=torch.bfloat16)
    given = inputs(model, "ragged")
    ids, logits = answer(model, given, steps=4)
    with zoo_exp.pruned(model, selector, 1.0) as pruning:
        pruned_ids, pruned_logits = answer(model, given, steps=4)
    assert torch.equal(pruned_ids, ids)
    assert torch.equal(pruned_logits, logits)
    assert sum(pruning.kept_tokens) == int((given["input_ids"] == model.config.image_token_id).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_only_prompt_is_untouched(family, models, answer, inputs):
    model = models(family)
    text = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
    }
    ids, logits = answer(model, text)
    with zoo_exp.pruned(model, "zoo", 4) as pruning:
        answer(
            model, inputs(model, "one"), steps=1
        )  # what it leaves behind must not leak into the next prompt
        pruned_ids, pruned_logits = answer(model, text)
        assert pruning.kept_tokens == [0, 0]
        assert pruning.selections == [[], []]
    assert torch.equal(pruned_ids, ids)
    assert torch.equal(pruned_logits, logits)

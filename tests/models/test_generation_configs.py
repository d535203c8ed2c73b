"""Processors that look at the prompt: stock `generate`, `pruned` and an evaluation's own path give the same ids."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

import zoo_exp
from zoo_exp.core.budget import Budget
from zoo_exp.core.tokens import Selection
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.selectors.layer.fastv import FastV

CONFIGS = Path(__file__).parent / "generation_configs"
FAMILIES = {"llava": "llava15", "llava_next": "next", "qwen2_5_vl": "qwen"}
PENALTIES = {
    "as published": {},
    "repetition": {"repetition_penalty": 1.8},
    "ngram": {"no_repeat_ngram_size": 2},
    "min_length": {"min_length": 60},
    "min_new_tokens": {"min_new_tokens": 6},
    "beams": {"repetition_penalty": 1.8, "num_beams": 2},
    "no cache": {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2, "use_cache": False},
}
STEPS = 8


@pytest.fixture
def configured(models):
    """A model under the published generation configuration of its family, with ids that its vocabulary has."""
    changed = []

    def make(family):
        model = models(family)
        changed.append((model, model.generation_config))
        given = json.loads((CONFIGS / f"{FAMILIES[family]}.json").read_text())
        model.generation_config = GenerationConfig.from_dict(
            {**given, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": [2, 5]}
        )
        return model

    yield make
    for model, config in changed:
        model.generation_config = config


def run_path(model, given, selections=None, **options):
    adapter = adapter_for(model)
    tokens = adapter.encode(given, frozenset())
    if selections is None:
        selections = [[Selection(torch.arange(image.count)) for image in row] for row in tokens]
    return generate_pruned(model, prune_prompt(adapter, given, tokens, selections), **options)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_is_the_stock_model(family, layout, penalty, configured, inputs, mixes_up_images):
    model = configured(family)
    given = inputs(model, layout)
    options = {"max_new_tokens": STEPS, "do_sample": False, **PENALTIES[penalty]}
    if penalty == "beams" and layout == "ragged" and mixes_up_images(family):
        pytest.skip("this version of transformers gives beams the wrong images")
    with torch.no_grad():
        stock = model.generate(**given, **options)[:, given["input_ids"].shape[1] :]
        with zoo_exp.pruned(model, "full"):
            hooked = model.generate(**given, **options)[:, given["input_ids"].shape[1] :]
        assert torch.equal(stock, hooked)
        assert torch.equal(stock, run_path(model, given, **options))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("selector", ["divprune", "blind"])
@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_processors_see_pruned_ids(
    family, layout, selector, penalty, configured, inputs, mixes_up_images
):
    model = configured(family)
    given = inputs(model, layout)
    options = {"max_new_tokens": STEPS, "do_sample": False, **PENALTIES[penalty]}
    if penalty == "beams" and layout == "ragged" and mixes_up_images(family):
        pytest.skip("this version of transformers gives beams the wrong images")
    with torch.no_grad():
        with zoo_exp.pruned(model, selector, None if selector == "blind" else 3) as pruning:
            hooked = model.generate(**given, **options)[:, given["input_ids"].shape[1] :]
        copies = len(pruning.selections) // len(
            given["input_ids"]
        )  # transformers 5.17 repeats images for beams
        assert torch.equal(hooked, run_path(model, given, pruning.selections[::copies], **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_selectors_see_the_same_ids(family, configured, inputs):
    model = configured(family)
    given = inputs(model, "one")
    options = {"max_new_tokens": STEPS, "do_sample": False, "repetition_penalty": 1.8, "min_length": 60}
    selector, adapter = FastV(k=2), adapter_for(model)
    with torch.no_grad():
        with zoo_exp.pruned(model, selector, 4):
            hooked = model.generate(**given, **options)[:, given["input_ids"].shape[1] :]
        tokens = adapter.encode(given, frozenset())
        keep = [[Selection(torch.arange(image.count)) for image in row] for row in tokens]
        prompt = prune_prompt(adapter, given, tokens, keep)
        own = generate_layer_pruned(adapter, prompt, selector, Budget.parse(4), **options).new_tokens
    assert torch.equal(hooked, own)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_penalty_reaches_the_prompt(family, configured, inputs):
    """Without the ids of the prompt a penalty would change nothing in the first step."""
    model = configured(family)
    given = inputs(model, "one")
    given["input_ids"][0, -1] = word = 7
    options = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "output_logits": True}
    with torch.no_grad():
        out = run_path(model, given, repetition_penalty=2.0, return_dict_in_generate=True, **options)
    raw, scored = out.logits[0][0, word], out.scores[0][0, word]
    assert torch.isclose(scored, raw / 2 if raw > 0 else raw * 2)
    assert out.sequences.shape == (1, 1)


def test_nothing_stays_on_the_model(configured):
    model = configured("llava")
    with zoo_exp.pruned(model, "full"):
        assert "_get_logits_processor" in vars(model)
    assert "_get_logits_processor" not in vars(model)

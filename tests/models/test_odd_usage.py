"""Uncommon usage of models besides one call of `generate`: correct or refused."""

import gc
import threading
import weakref

import pytest
import torch
from own_families import FAMILIES
from transformers.modeling_layers import GradientCheckpointingLayer

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.tiny import tiny_model

SELECTORS = [("zoo", 3), ("fastv", 3)]
HOOKS_RUN_AGAIN = "__call__" in GradientCheckpointingLayer.__dict__
"""Whether this version of transformers recomputes a layer together with its hooks (5.17)."""
both = pytest.mark.parametrize("selector", SELECTORS, ids=["zoo", "fastv"])
families = pytest.mark.parametrize("family", FAMILIES)


def greedy(model, given, steps=4):
    return model.generate(**given, max_new_tokens=steps, do_sample=False)


@both
@families
def test_a_second_call_in_a_block_and_a_third_after_it(family, selector, models, inputs):
    model = models(family)
    given = inputs(model, "ragged")
    plain = greedy(model, given)
    with zoo_exp.pruned(model, *selector):
        first, second = greedy(model, given), greedy(model, given)
    assert torch.equal(first, second)
    assert torch.equal(greedy(model, given), plain)


@both
@families
def test_threads_of_a_server_do_not_mix(family, selector, models, inputs):
    model = models(family)
    prompts = [
        inputs(model, layout, seed=s) for s, layout in enumerate(("one", "two images", "ragged", "one"))
    ]
    with zoo_exp.pruned(model, *selector):
        expected = [greedy(model, given) for given in prompts]
        wrong = []

        def serve(number):
            for _ in range(4):
                try:
                    if not torch.equal(greedy(model, prompts[number]), expected[number]):
                        wrong.append(number)
                except Exception as error:
                    wrong.append(repr(error))

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@families
def test_two_models_at_once(family, inputs):
    first, second = tiny_model(family, seed=1), tiny_model(family, seed=2)
    given = inputs(first, "one")
    alone = []
    for model, selector in ((first, "zoo"), (second, "fastv")):
        with zoo_exp.pruned(model, selector, 3):
            alone.append(greedy(model, given))
    with zoo_exp.pruned(first, "zoo", 3) as a, zoo_exp.pruned(second, "fastv", 3) as b:
        assert torch.equal(greedy(first, given), alone[0])
        assert torch.equal(greedy(second, given), alone[1])
        assert torch.equal(greedy(first, given), alone[0])
    assert a.kept_tokens == [3]
    assert b.layer_counts[0][-1] == 3


def test_a_nested_block_is_refused_and_the_outer_one_continues(models, inputs):
    model = models("llava")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, "zoo", 3) as outer:
        expected = greedy(model, given)
        with (
            pytest.raises(InvalidValueError, match="being pruned already"),
            zoo_exp.pruned(model, "random", 2),
        ):
            pass
        assert torch.equal(greedy(model, given), expected)
        assert outer.kept_tokens == [3]


def test_detaching_inside_a_block(models, inputs):
    model = models("llava")
    given = inputs(model, "one")
    plain = greedy(model, given)
    with zoo_exp.pruned(model, "zoo", 3):
        zoo_exp.detach(model)
        assert torch.equal(greedy(model, given), plain)
        with zoo_exp.pruned(model, "random", 2) as other:
            greedy(model, given)
    assert other.kept_tokens == [2]
    with pytest.raises(InvalidValueError, match="nothing to detach"):
        zoo_exp.detach(model)


def test_a_model_that_is_no_longer_needed_is_freed_although_it_was_pruned(inputs):
    model = tiny_model("llava")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, "zoo", 3):
        greedy(model, given)
    watched = []
    weakref.finalize(model, watched.append, True)
    del model
    gc.collect()
    assert watched == [True]


def test_models_that_carry_their_processor(models, inputs):
    """Scripts put a processor on the model; `load_model` with random weights gives none at all."""
    model = models("llava")
    given = inputs(model, "one")
    model.processor = object()
    try:
        with zoo_exp.pruned(model, "zoo", 3) as pruning:
            greedy(model, given)
    finally:
        del model.processor
    assert pruning.kept_tokens == [3]
    loaded = LoadedModel(model, None, adapter_for(model), "tiny", None)
    with zoo_exp.pruned(loaded, "zoo", 4) as pruning:
        greedy(model, given)
    assert pruning.kept_tokens == [4]


@families
def test_a_part_of_a_model_is_refused(family, models):
    with pytest.raises(InvalidValueError, match=r"only a part of a model.*generate"):
        zoo_exp.attach(models(family).model, "zoo", 3)


@both
@families
def test_images_without_ids_are_refused(family, selector, models, inputs):
    model = models(family)
    given = inputs(model, "one")
    plain = greedy(model, given)
    whole = dict(given)
    embeds = model.get_input_embeddings()(given.pop("input_ids"))
    with zoo_exp.pruned(model, *selector):
        with pytest.raises(InvalidValueError, match="pass input_ids"):
            model(inputs_embeds=embeds, **given)
        with pytest.raises(InvalidValueError, match="pass input_ids"):
            model.generate(inputs_embeds=embeds, max_new_tokens=2, **given)
    assert torch.equal(greedy(model, whole), plain)


@both
@families
def test_a_prompt_in_chunks_is_refused(family, selector, models, inputs, mixes_up_images):
    if mixes_up_images("llava"):
        pytest.skip("this version of transformers loses the images of a prompt in chunks, pruned or not")
    model = models(family)
    given = inputs(model, "one")
    with zoo_exp.pruned(model, *selector):
        expected = greedy(model, given)
        with pytest.raises(InvalidValueError, match="without prefill_chunk_size"):
            model.generate(**given, max_new_tokens=3, prefill_chunk_size=4)
        assert torch.equal(greedy(model, given), expected)


@both
@families
def test_padding_on_the_right(family, selector, models, inputs):
    """Logits of a real token do not depend on the side of the padding."""
    model = models(family)
    left = inputs(model, "ragged")
    right = {**left, "input_ids": left["input_ids"].clone(), "attention_mask": left["attention_mask"].clone()}
    lengths = left["attention_mask"].sum(1).tolist()
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in left:
            right[name] = torch.stack(
                [row.roll(length, 0) for row, length in zip(left[name], lengths, strict=True)]
            )
    with zoo_exp.pruned(model, *selector) as pruning, torch.no_grad():
        a = model(**left).logits
        kept = pruning.kept_tokens
        b = model(**right).logits
    assert pruning.kept_tokens == kept
    for one, other, length in zip(a, b, lengths, strict=True):
        torch.testing.assert_close(other[:length], one[-length:], atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("checkpointing", [False, True])
@both
@families
def test_training(family, selector, checkpointing, inputs):
    """A loss in training mode; recomputed activations give the same gradient."""
    model = tiny_model(family)
    given = inputs(model, "ragged")
    text = given["input_ids"].masked_fill(given["input_ids"] == model.config.image_token_id, -100)
    labels = text.masked_fill(given["attention_mask"] == 0, -100)
    gradients = []
    for recompute in (False, checkpointing):
        model.train()
        model.zero_grad()
        if recompute:
            model.gradient_checkpointing_enable()
        with zoo_exp.pruned(model, *selector) as pruning:
            if recompute and selector[0] == "fastv" and HOOKS_RUN_AGAIN:
                with pytest.raises(InvalidValueError, match="switch checkpointing off"):
                    model(**given, labels=labels, use_cache=False)
                return
            model(**given, labels=labels, use_cache=False).loss.backward()
        projector = model.model.visual.merger if family == "qwen2_5_vl" else model.model.multi_modal_projector
        gradients.append(torch.cat([p.grad.flatten() for p in projector.parameters()]))
        assert pruning.layer_counts[0][-1] == 3
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


@both
@families
def test_outputs_in_every_form(family, selector, models, inputs):
    model = models(family)
    given = inputs(model, "one")
    with zoo_exp.pruned(model, *selector) as pruning, torch.no_grad():
        whole = model(**given).logits
        assert torch.equal(model(**given, return_dict=False)[0], whole)
        last = model(**given, logits_to_keep=1).logits
        torch.testing.assert_close(last[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)
        hidden = model(**given, output_hidden_states=True).hidden_states
        answers = model.generate(
            **given, num_beams=3, num_return_sequences=2, max_new_tokens=3, do_sample=False
        )
    assert len(hidden) == 5
    assert (
        hidden[-2].shape[1]
        == given["input_ids"].shape[1]
        - int((given["input_ids"] == model.config.image_token_id).sum())
        + pruning.layer_counts[0][-1]
    )
    assert answers.shape == (2, given["input_ids"].shape[1] + 3)


@both
@families
def test_without_a_mask(family, selector, models, inputs):
    model = models(family)
    given = inputs(model, "one")
    assert given["attention_mask"].all()
    with zoo_exp.pruned(model, *selector):
        expected = greedy(model, given)
        del given["attention_mask"]
        assert torch.equal(greedy(model, given), expected)

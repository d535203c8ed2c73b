"""Every vision-language type of the installed transformers: pruned rightly, or listed with its reason."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tiny_changes import BATCH_DEPENDS, CANNOT_BE_BUILT, ENCODES_MORE
from tiny_configs import IMAGE
from tiny_families import reference, split_rows, tiny_family, tiny_prompt

import zoo_exp
from zoo_exp.core.tokens import Selection
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import FAMILIES, adapter_for
from zoo_exp.models.generic_support import REFUSED, find_parts, vision_language_types
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.selectors.base import Selector

QUICK = ("gemma3", "internvl", "llava_onevision", "paligemma", "qwen3_vl", "smolvlm")
TYPES = sorted(set(vision_language_types()) - set(REFUSED) - set(CANNOT_BE_BUILT) - set(FAMILIES.names()))
STEPS = 8


@dataclass(frozen=True)
class EveryOther(Selector):
    """Keeps every second visual token of an image; the only one where there is one."""

    name: ClassVar[str] = "every_other"

    def select(self, tokens, budget, generator, scores=None):
        """Indices by rule."""
        return Selection(torch.arange(tokens.count % 2 if tokens.count > 1 else 0, tokens.count, 2))


@pytest.fixture(
    scope="module", params=[t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in TYPES]
)
def model(request):
    """A tiny random model of every type."""
    return tiny_family(request.param)


def answer(model, given, steps=STEPS, **options):
    """Greedy ids [B, L + steps] and logits [B, steps, V]."""
    with torch.no_grad():
        out = model.generate(
            **given,
            max_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return out.sequences, torch.stack(out.logits, dim=1)


def error(given, expected):
    """Largest difference as a share of the largest value."""
    return float((given - expected).abs().max() / expected.abs().max())


def limit(model):
    """Largest error: recurrent layers (linear attention) take other steps with a cache, and round more then."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    return 5e-5 if "linear_attention" in kinds else 1e-5


@torch.no_grad()
def independent_rows(model, given):
    """Rows of a batch whose unpruned logits are those of the prompt alone: all, unless the type is listed."""
    rows = split_rows(model, given)
    if model.config.model_type not in BATCH_DEPENDS:
        return list(range(len(rows)))
    last = model(**given).logits[:, -1]
    return [b for b, row in enumerate(rows) if error(last[b], model(**row).logits[0, -1]) < 1e-5]


def original_positions(model, given):
    """What the model hands to its decoder [A, 1, L]."""
    seen = []
    hook = find_parts(model)[1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(**given)
    finally:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("rows", [(1,), (2,)], ids=["one image", "two images"])
def test_keeping_every_token_changes_no_bit(model, rows):
    given = tiny_prompt(model, rows)
    ids, logits = answer(model, given)
    with torch.no_grad():
        plain = model(**given).logits
    with zoo_exp.pruned(model, "full") as pruning, torch.no_grad():
        pruning._engine.force = True
        same_ids, same_logits = answer(model, given)
        whole = model(**given).logits
    assert torch.equal(same_ids, ids)
    assert torch.equal(same_logits, logits)
    assert torch.equal(whole, plain)
    assert pruning.kept_tokens == [int((given["input_ids"] == IMAGE).sum())]


@pytest.mark.parametrize("rows", [(1,), (2,)], ids=["one image", "two images"])
def test_pruned_logits_are_those_of_a_prompt_that_never_held_the_others(model, rows):
    given = tiny_prompt(model, rows, seed=1)
    adapter = adapter_for(model)
    counts = [t.count for t in adapter.encode(given, frozenset())[0]]
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        ids, logits = answer(model, given)
    starts = torch.tensor([0, *counts]).cumsum(0)
    keep = torch.cat([s.indices + start for s, start in zip(pruning.selections[0], starts[:-1], strict=True)])
    assert pruning.kept_tokens == [len(keep)]
    assert max(counts) == 1 or len(keep) < sum(counts)
    positions = None
    if adapter.positions == "original":
        visual = (given["input_ids"][0] == IMAGE).nonzero().squeeze(1)
        stays = given["input_ids"][0] != IMAGE
        stays[visual[keep]] = True
        positions = original_positions(model, given)[..., stays]
    expected = reference(model, given, keep, positions, STEPS)
    assert error(logits[0, 0], expected[0]) < 1e-5
    assert error(logits[0], expected) < limit(model)
    assert torch.equal(ids[0, -STEPS:], expected.argmax(dim=-1))


def test_a_padded_batch_equals_its_prompts_one_by_one(model):
    given = tiny_prompt(model, (1, 1), seed=2)
    assert not given["attention_mask"].all()
    with zoo_exp.pruned(model, EveryOther()):
        ids, logits = answer(model, given, 4)
        alone = [answer(model, one, 4) for one in split_rows(model, given)]
    for b in independent_rows(model, given):
        assert error(logits[b, 0], alone[b][1][0, 0]) < 1e-5
        assert error(logits[b], alone[b][1][0]) < limit(model)
        assert torch.equal(ids[b, -4:], alone[b][0][0, -4:])


@pytest.mark.parametrize("rows", [(2,), (1, 1)], ids=["two images", "batch"])
def test_prompts_that_are_pruned_before_generation_give_the_same(model, rows):
    """The route of the evaluation: one vision pass, then a prompt per arm."""
    given = tiny_prompt(model, rows, seed=3)
    adapter = adapter_for(model)
    tokens = adapter.encode(given, frozenset())
    if model.config.model_type in ENCODES_MORE:
        with pytest.raises(InvalidValueError, match="needs more than the visual tokens"):
            prune_prompt(
                adapter, given, tokens, [[EveryOther().select(t, None, None) for t in r] for r in tokens]
            )
        return
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        ids, logits = answer(model, given, 4)
    known = {
        name: value for name, value in given.items() if "pixel_values" not in name
    }  # they are encoded already
    prompt = prune_prompt(adapter, known, tokens, pruning.selections)
    out = generate_pruned(
        model, prompt, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    assert prompt.kept_tokens == pruning.kept_tokens
    assert error(torch.stack(out.logits, dim=1), logits) < limit(model)
    assert torch.equal(out.sequences[:, -4:], ids[:, -4:])


def test_beams_over_a_prompt_with_two_images_are_right_or_refused():
    """Transformers 5.17 repeats the images of a prompt for its beams, and mixes them up."""
    model = tiny_family("internvl")
    given = tiny_prompt(model, (2,))
    mixes_up = "mm_encoder_outputs" not in inspect.signature(type(find_parts(model)[0]).forward).parameters
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        if mixes_up:
            with pytest.raises(
                InvalidValueError, match="images of a prompt with several of them to the wrong rows"
            ):
                answer(model, given, 2, num_beams=2)
            return
        answer(model, given, 2, num_beams=2)
    assert [len(row) for row in pruning.selections] == [2]
    plain = answer(model, given, 3, num_beams=2)[0]
    with zoo_exp.pruned(model, "full") as pruning:
        pruning._engine.force = True
        assert torch.equal(answer(model, given, 3, num_beams=2)[0], plain)


def test_no_hooks_remain_on_a_generic_model(model):
    given = tiny_prompt(model)
    ids, logits = answer(model, given, 2)
    with zoo_exp.pruned(model, EveryOther()):
        answer(model, given, 2)
    vlm, llm = find_parts(model)
    assert "get_image_features" not in vlm.__dict__
    assert not llm._forward_pre_hooks
    assert not llm._forward_hooks
    again, same = answer(model, given, 2)
    assert torch.equal(again, ids)
    assert torch.equal(same, logits)


def test_every_type_is_pruned_or_listed_with_its_reason():
    known = set(vision_language_types())
    if len(known) > 90:  # transformers 5.23
        assert len(TYPES) >= 40
    assert not set(REFUSED) & set(CANNOT_BE_BUILT)
    assert all(REFUSED.values())
    assert all(CANNOT_BE_BUILT.values())

"""Attention of CLIP and SigLIP encoders of families without an adapter of their own, against eager attention."""

import pytest
import torch
from tiny_families import tiny_family, tiny_prompt

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for

NEEDS = frozenset({"received_attention", "keys"})


def eager_attention(model_type, given):
    """Attention of every encoder layer [B, H, N, N], by eager attention."""
    model = tiny_family(model_type, attention="eager")
    with torch.no_grad():
        return model.model.vision_tower(given["pixel_values"], output_attentions=True).attentions


@pytest.mark.parametrize(("model_type", "layer"), [("vipllava", -1), ("paligemma", -1)])
def test_attention_is_that_of_eager_attention(model_type, layer):
    model = tiny_family(model_type)
    given = tiny_prompt(model, (2, 1))
    has_cls = model_type == "vipllava"
    needs = NEEDS | ({"cls_attention", "cls"} if has_cls else set())
    images = [image for row in adapter_for(model).encode(given, needs) for image in row]
    weights = eager_attention(model_type, given)[layer]
    assert len(images) == 3
    for image, each in zip(images, weights, strict=True):
        torch.testing.assert_close(image.received_attention, each.mean(dim=(0, 1))[has_cls:])
        assert len(image.keys) == image.count
        if has_cls:
            torch.testing.assert_close(image.cls_attention, each[:, 0, 1:].mean(dim=0))


def test_visionzip_prunes_a_family_with_a_clip_encoder():
    model = tiny_family("vipllava")
    given = tiny_prompt(model)
    with zoo_exp.pruned(model, "visionzip", 4) as pruning, torch.no_grad():
        model.generate(**given, max_new_tokens=2, do_sample=False)
    assert pruning.kept_tokens == [4]


@pytest.mark.parametrize(
    ("model_type", "selector", "why"),
    [
        ("paligemma", "visionzip", "its SigLIP encoder has no CLS token"),
        ("gemma3", "hiprune", "does not read one row per patch"),
        ("llava_onevision", "hiprune", "only adapters of their own"),
    ],
)
def test_what_an_encoder_cannot_give_is_refused_with_the_reason(model_type, selector, why):
    model = tiny_family(model_type)
    with zoo_exp.pruned(model, selector, 2), pytest.raises(InvalidValueError, match=why), torch.no_grad():
        model(**tiny_prompt(model))

"""Synthetic prompts match the model, for any batch size and image size."""

import pytest
import torch

from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.models.families import adapter_for
from zoo_exp.models.tiny import tiny_model


@pytest.mark.parametrize("size", [(56, 56), (112, 100), (60, 150)])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_adapters_accept_synthetic_inputs(family, size):
    adapter = adapter_for(tiny_model(family))
    inputs = made_up_inputs(adapter, 2, 20, size)
    tokens = adapter.encode(inputs, frozenset())
    visual = (inputs["input_ids"] == adapter.image_token_id).sum(dim=1).tolist()
    assert [[image.count for image in row] for row in tokens] == [[n] for n in visual]
    assert inputs["input_ids"].shape[1] == visual[0] + 20
    assert inputs["attention_mask"].all()


def test_words_exclude_placeholders_and_depend_on_the_seed():
    adapter = adapter_for(tiny_model("qwen2_5_vl"))
    inputs = made_up_inputs(adapter, 3, 500, (56, 56))
    words = inputs["input_ids"][inputs["input_ids"] != adapter.image_token_id]
    assert len(words) == 3 * 500
    assert not torch.isin(words, torch.tensor([0, 1, 2, 95, 96, 98])).any()
    again, other = (made_up_inputs(adapter, 3, 500, (56, 56), seed=seed) for seed in (0, 1))
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    assert not torch.equal(inputs["input_ids"], other["input_ids"])


def test_llava_next_at_its_real_size_has_five_tiles_and_48_newlines():
    from zoo_exp.models.families import architecture

    adapter = adapter_for(tiny_model("llava_next"))
    adapter.model.config = architecture("llava-hf/llava-v1.6-vicuna-7b-hf")
    adapter.model.model.config = adapter.model.config
    pixels, n_visual = adapter.made_up_images(1, (672, 672), torch.Generator())
    assert n_visual == 5 * 576 + 48
    assert pixels["pixel_values"].shape == (1, 5, 3, 336, 336)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"text_tokens": 1}, {"image_size": (0, 56)}])
def test_impossible_sizes_are_refused(bad):
    adapter = adapter_for(tiny_model("llava"))
    with pytest.raises(InvalidValueError):
        made_up_inputs(adapter, **bad)

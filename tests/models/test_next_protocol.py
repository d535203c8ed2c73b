"""LLaVA-NeXT by supplement C.2, on a tiny model of the real class: 32 tokens of every tile, whatever their number."""

import dataclasses

import pytest
import torch
import transformers

from zoo_exp import selectors
from zoo_exp.config import compose
from zoo_exp.models.families import adapter_for

SIDE, PATCHES = 112, 64
SIZES = {5: (224, 224), 4: (336, 112), 3: (224, 112)}
"""Tiles, the base tile included -> height and width of an image that fills them."""


@pytest.fixture(scope="module")
def model():
    """Tiles of 64 tokens, so that 32 of each is a choice."""
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "image_size": SIDE,
    }
    vision |= {"num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14, "projection_dim": 16}
    text = {"model_type": "llama", "hidden_size": 160, "intermediate_size": 48, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0}
    grids = [[SIDE * h, SIDE * w] for h, w in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    config = transformers.LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=63,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=grids,
    )
    torch.manual_seed(0)
    return transformers.LlavaNextForConditionalGeneration._from_config(config).eval()


def image(model, tiles, needs):
    """The visual tokens of an image of so many tiles."""
    adapter = adapter_for(model)
    sizes = torch.tensor([SIZES[tiles]])
    (source,) = adapter.sources(sizes, PATCHES)
    pixels = torch.randn(1, tiles, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(tiles))
    ids = torch.tensor([[5, *[63] * len(source), 7, 8]])
    ((found,),) = adapter.encode({"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}, needs)
    return found


def kept(model, tiles, arm):
    """How many tokens of every tile stay under an arm of the experiment."""
    options = dict(arm.options)
    if "rank" in options:
        options["rank"] = 16  # the tiny projector has no rank of 128
    selector = selectors.get(arm.selector, **options)
    tokens = image(model, tiles, selector.needs)
    answer = selector.select(tokens, arm.budget, torch.Generator().manual_seed(0))
    return [int((tokens.tile[answer.indices] == t).sum()) for t in (-1, *range(tiles))]


@pytest.mark.parametrize("name", ["table3_llava_next_7b", "ablation_fusion", "encoder_proxy"])
def test_every_tile_keeps_32(name, model):
    arms = compose([f"+exp={name}", "model=llava_next_7b"]).arms
    smallest = [a for a in arms if str(a.budget) == "32/tile" and a.seed_index == 0]
    assert len(smallest) > 5
    for arm in smallest:
        if arm.options.get("layer", 0) > 2:
            continue  # the tiny encoder has two layers before its projector
        if arm.options.get("layer") == 2 and arm.options.get("response") == "features":
            continue
        assert kept(model, 5, arm) == [0, *[32] * 5], arm.label
        assert sum(kept(model, 4, arm)) == 128, arm.label
        assert sum(kept(model, 3, arm)) == 96, arm.label


def test_the_released_code_splits_a_total(model):
    """160 of five tiles are 32 each, of three 53 each; its newline rows are patches of the base tile and others."""
    (arm,) = [
        a
        for a in compose(["+exp=table3_llava_next_7b"]).arms
        if a.row == "zoo official_code @160" and a.seed_index == 0
    ]
    arm = dataclasses.replace(arm, options={**arm.options, "dtype": "float32", "newline": "drop", "rank": 16})
    assert kept(model, 5, arm) == [0, *[32] * 5]
    assert kept(model, 3, arm) == [0, *[53] * 3]


def test_tiles_compete_where_they_share_a_number(model):
    (arm,) = [a for a in compose(["+exp=table3_llava_next_7b"]).arms if a.row == "zoo per image @160"]
    for tiles in (5, 4, 3):
        counts = kept(model, tiles, arm)
        assert sum(counts) == 160
        assert len(set(counts[1:])) > 1


def test_a_tile_with_less_keeps_all(model):
    tokens = image(model, 5, frozenset())
    few = (tokens.tile != 4) | (torch.arange(tokens.count) == int((tokens.tile == 4).nonzero()[0]))
    cropped = tokens.subset(few.nonzero().flatten())
    answer = selectors.get("divprune").select(cropped, "32/tile", torch.Generator())
    counts = [int((cropped.tile[answer.indices] == t).sum()) for t in range(5)]
    assert counts == [32, 32, 32, 32, 1]

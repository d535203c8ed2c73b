"""The three models of world 2: stock classes of LLaVA, LLaVA-NeXT and Qwen2.5-VL, and their processors."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo_exp.embedded.model import WIDTH, make_model
from zoo_exp.embedded.model import weights_folder as world_1_weights
from zoo_exp.embedded.packing import MEAN, STD
from zoo_exp.embedded.scene import IMAGE_SIZE, PATCH_SIZE
from zoo_exp.embedded.vocabulary import IMAGE, TOKEN_ID
from zoo_exp.embedded.world2.lexicon import LLAVA_TEMPLATE, VOCAB_ROWS, make_tokenizer_2

if TYPE_CHECKING:
    from transformers import (
        LlavaForConditionalGeneration,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
        LlavaProcessor,
    )

PINPOINTS = [[2 * IMAGE_SIZE, 2 * IMAGE_SIZE], [IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE]]


def make_llava(seed: int = 0, start: str = "world1") -> "LlavaForConditionalGeneration":
    """A LLaVA over world 2's vocabulary.

    Args:
        seed: seed of what is new.
        start: `world1` takes world 1's weights, `scratch` takes none.
    """
    from transformers import LlavaForConditionalGeneration

    model = make_model(seed)
    if start == "world1":
        model = LlavaForConditionalGeneration.from_pretrained(world_1_weights(), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        old = model.get_input_embeddings().weight.detach().clone()
        model.resize_token_embeddings(VOCAB_ROWS, mean_resizing=False)
        with torch.no_grad():
            table = model.get_input_embeddings().weight
            table.normal_(std=float(old[: len(TOKEN_ID)].std()))
            table[: len(TOKEN_ID)] = old[: len(TOKEN_ID)]
    model.tie_weights()
    return model


def deepen(model: Any) -> None:
    """Follow every decoder layer with a copy whose outputs are zero: the function stays, the depth doubles."""
    _set_layers(
        model, [part for layer in model.model.language_model.layers for part in (layer, _identity(layer))]
    )


def insert_first(model: Any) -> None:
    """Put a copy of the first decoder layer in front whose outputs are zero: the function stays."""
    layers = list(model.model.language_model.layers)
    _set_layers(model, [_identity(layers[0]), *layers])


def _identity(layer: nn.Module) -> nn.Module:
    """A copy of a decoder layer that changes nothing."""
    twin: Any = copy.deepcopy(layer)
    with torch.no_grad():
        twin.self_attn.o_proj.weight.zero_()
        twin.mlp.down_proj.weight.zero_()
    return twin


def _set_layers(model: Any, layers: list[Any]) -> None:
    llm = model.model.language_model
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    llm.layers = nn.ModuleList(layers)
    llm.config.num_hidden_layers = len(layers)
    model.config.text_config.num_hidden_layers = len(layers)
    if getattr(llm.config, "layer_types", None):
        llm.config.layer_types = [llm.config.layer_types[0]] * len(layers)
        model.config.text_config.layer_types = list(llm.config.layer_types)


def make_next(llava: "LlavaForConditionalGeneration", seed: int = 0) -> "LlavaNextForConditionalGeneration":
    """A LLaVA-NeXT around a LLaVA's weights: a base view and up to 2 x 2 tiles, one `image_newline` behind a row."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    old = llava.config
    config = LlavaNextConfig(
        vision_config=old.vision_config.to_dict(),
        text_config=old.text_config.to_dict(),
        image_token_index=old.image_token_id,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    model = LlavaNextForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(llava.state_dict(), strict=False)
    assert missing == ["model.image_newline"], missing
    assert not unexpected, unexpected
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model.model.image_newline.normal_(std=0.3)  # about as large as a projected patch feature
    model.tie_weights()
    return model


def llava_processor() -> "LlavaProcessor":
    """Image processor and tokenizer of `embedded` on world 2."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        # Both sides: by its shortest edge, an image of 1 x 4000 px would grow to 96 x 384,000.
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(image_processor=images, tokenizer=make_tokenizer_2(), **_llava_options())


def next_processor() -> "LlavaNextProcessor":
    """Image processor and tokenizer of `embedded_next`."""
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    images = LlavaNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_grid_pinpoints=PINPOINTS,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaNextProcessor(image_processor=images, tokenizer=make_tokenizer_2(), **_llava_options())


def _llava_options() -> dict[str, Any]:
    return {
        "patch_size": PATCH_SIZE,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": LLAVA_TEMPLATE,
        "image_token": IMAGE,
    }


__all__ = [
    "WIDTH",
    "Path",
    "deepen",
    "insert_first",
    "llava_processor",
    "make_llava",
    "make_next",
    "next_processor",
]

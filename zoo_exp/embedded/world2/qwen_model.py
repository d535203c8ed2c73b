"""`embedded_qwen`: a small Qwen2.5-VL of stock classes, and its processor."""

from typing import Any

import torch
from torch import nn

from zoo_exp.embedded.model import TEXT_HEADS, TEXT_HIDDEN, TEXT_LAYERS, WIDTH
from zoo_exp.embedded.packing import MEAN, STD
from zoo_exp.embedded.vocabulary import BOS, EOS, PAD
from zoo_exp.embedded.world2.lexicon import (
    IMAGE_PAD,
    QWEN_TEMPLATE,
    TOKEN_ID_2,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    VOCAB_ROWS,
    make_tokenizer_2,
)

VISION_PATCH, MERGE, WINDOW = 4, 2, 32  # px, patches, px: a token is 8 x 8 px, a window 4 x 4 tokens
VISION_WIDTH, VISION_DEPTH, VISION_HEADS_2 = 64, 6, 4
FULL_ATTENTION = (2, 5)
# Head 16 gives four frequencies an axis: with theta 100 they turn from 1 to 0.03 a patch.
VISION_THETA = 100.0
# The decoder expects visual tokens of about this size; Muon alone would need thousands of steps to get there.
GAIN = 20.0
MIN_PIXELS, MAX_PIXELS = 64 * 64, 160 * 128
SIDES = range(64, 161, 8)
OTHER_SIZES = 0.25  # share of the batches whose images are not 96 x 96 px


def make_qwen(seed: int = 0, decoder: nn.Module | None = None) -> Any:
    """A fresh Qwen2.5-VL: 1.2 million parameters with four decoder layers.

    Args:
        seed: seed of the weights.
        decoder: a Llama decoder of the same sizes to copy, with all of its layers; None leaves the decoder random.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    depth = TEXT_LAYERS if decoder is None else len(decoder.layers)
    config = Qwen2_5_VLConfig(
        vision_config={
            **{"depth": VISION_DEPTH, "hidden_size": VISION_WIDTH, "intermediate_size": 3 * VISION_WIDTH},
            **{"num_heads": VISION_HEADS_2, "patch_size": VISION_PATCH, "spatial_merge_size": MERGE},
            **{"temporal_patch_size": 1, "window_size": WINDOW, "out_hidden_size": WIDTH},
            "fullatt_block_indexes": list(FULL_ATTENTION),
            "rope_parameters": {"rope_type": "axial", "rope_theta": VISION_THETA},
        },
        text_config={
            **{"vocab_size": VOCAB_ROWS, "hidden_size": WIDTH, "intermediate_size": TEXT_HIDDEN},
            **{"num_hidden_layers": depth, "num_attention_heads": TEXT_HEADS},
            **{"num_key_value_heads": TEXT_HEADS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
            # A list of ones interleaves time, row and column over all frequencies.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1] * 16},
            **{"bos_token_id": TOKEN_ID_2[BOS], "eos_token_id": TOKEN_ID_2[EOS]},
            **{"pad_token_id": TOKEN_ID_2[PAD], "tie_word_embeddings": True},
        },
        image_token_id=TOKEN_ID_2[IMAGE_PAD],
        video_token_id=TOKEN_ID_2[VIDEO_PAD],
        vision_start_token_id=TOKEN_ID_2[VISION_START],
        vision_end_token_id=TOKEN_ID_2[VISION_END],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
        _initialise(model)
    if decoder is not None:
        missing, _ = model.model.language_model.load_state_dict(decoder.state_dict(), strict=False)
        # Qwen's projections have biases, which start at zero.
        assert all(name.endswith("_proj.bias") for name in missing), missing
        model.tie_weights()
    return model


def replace_decoder(qwen: Any, llava: Any, seed: int = 0) -> Any:
    """The vision encoder and merger of a Qwen2.5-VL before the decoder of a LLaVA of the same width.

    Args:
        qwen: the model whose vision part is taken.
        llava: the model whose decoder is taken, with all of its layers.
        seed: of the weights of what neither has.
    """
    model = make_qwen(seed, llava.model.language_model)
    model.model.visual.load_state_dict(qwen.model.visual.state_dict())
    return model


def _initialise(model: Any) -> None:
    """Normal weights with small residual branches, and a merger whose output is as large as the decoder expects."""
    residual = ("o_proj.weight", "down_proj.weight", "attn.proj.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                nn.init.normal_(parameter, std=0.7 * parameter.shape[1] ** -0.5)
                if name.endswith(residual):
                    parameter.mul_(0.4)
            elif name.endswith("bias"):
                parameter.zero_()
        model.model.language_model.embed_tokens.weight.normal_(std=0.05)
        patch = model.model.visual.patch_embed.proj.weight
        nn.init.normal_(patch, std=0.45 * patch[0].numel() ** -0.5)
        model.model.visual.merger.mlp[2].weight.mul_(GAIN)


def qwen_processor(processor_class: Any) -> Any:
    """Image processor and tokenizer of `embedded_qwen`; from 64 x 64 to 160 x 128 pixels.

    Args:
        processor_class: the stock processor, or one that needs no torchvision.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        patch_size=VISION_PATCH,
        temporal_patch_size=1,
        merge_size=MERGE,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return processor_class(
        image_processor=images, tokenizer=make_tokenizer_2(qwen=True), chat_template=QWEN_TEMPLATE
    )

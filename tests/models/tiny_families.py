"""Tiny random models of every vision-language type of the installed transformers, prompts for them, and a reference."""

import inspect
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tiny_configs import END, IMAGE, START, VIDEO, tiny_config
from torch import Tensor

from zoo_exp.models.generic_support import find_parts, vision_language_types

QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_MROPE = {"text_config": {"rope_parameters": QWEN_ROPE}}
_GLM = {"text_config": {"rope_parameters": {**QWEN_ROPE, "partial_rotary_factor": 1.0}}}
_WINDOW_28 = {"vision_config": {"window_size": 56}}
_OMNI = {
    "audio_config": {
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "d_model": 16,
        "output_dim": 32,
        "num_mel_bins": 8,
        "downsample_hidden_size": 8,
    },
    **_MROPE,
}
_MINICPM = {
    "image_size": 56,
    "patch_size": 14,
    "insert_layer_id": 1,
    "vision_config": {"insert_layer_id": 1},
}
_LATENT = {"num_key_value_heads": 4}
CHANGES: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {16: 8}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 10000.0}
                for kind in ("full_attention", "sliding_attention")
            }
        }
    },
    "cosmos3_edge": {**_MROPE, "projector_hidden_size": 48, "vision_config": {"num_patches": 64}},
    "cosmos3_omni": _MROPE,
    "deepseek_vl_hybrid": {
        "high_res_vision_config": {"image_size": 64, "patch_size": 4, "output_channels": 16}
    },
    "dots3_note": {"text_config": {**_LATENT, "per_layer_config": {}}},
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [16, 16],
            "rope_parameters": {**QWEN_ROPE, "mrope_section": [1, 1, 2]},
        }
    },
    "exaone4_5": _WINDOW_28,
    "gemma3": {"mm_tokens_per_image": 4},
    "got_ocr2": {"vision_config": {"image_size": 112}},
    "pp_chart2table": {"vision_config": {"image_size": 112}},
    "gemma4": {
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        "text_config": {"per_layer_config": {}},
    },
    "glm46v": _GLM,
    "glm4v": _GLM,
    "glm4v_moe": {"text_config": {"rope_parameters": {**QWEN_ROPE, "partial_rotary_factor": 1.0}}},
    "glm_ocr": _GLM,
    "glmga": _GLM,
    "glm5_next": {
        "text_config": {**_LATENT, "qk_rope_head_dim": 0, "linear_head_dim": 8, "linear_num_heads": 4},
        "vision_config": {"projection_intermediate_size": 48},
    },
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1, 1]},
        },
        "vision_config": {
            "text_hidden_size": 32,
            "max_image_size": 112,
            "min_image_size": 14,
            "img_max_token_num": 64,
        },
    },
    "hyperclovax_vision_v2": _WINDOW_28,
    "inkling2": {
        "text_config": {
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "sliding_window_size": 24,
        },
        "vision_config": {"text_hidden_size": 32, "projection_hidden_dim": 48},
    },
    "janus": {
        "vision_config": {"num_image_tokens": 16},
        "vq_config": {
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "num_patches": 4,
            "image_token_embed_dim": 32,
        },
    },
    "kimi_k25": {
        "text_config": {**_LATENT, "first_k_dense_replace": 1, "head_dim": 4},
        "projection_hidden_size": 32,
    },
    "llama4": {
        "vision_config": {
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "intermediate_size": 128,
            "projector_output_dim": 32,
        },
        "text_config": {"num_experts_per_tok": 1},
    },
    "llava_next_video": {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]},
    "llava_onevision": {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]},
    "minicpm_ocr": {**_MINICPM, **_MROPE},
    "minicpmv4_6": {**_MINICPM, **_MROPE},
    "minicpmv4_7": {**_MINICPM, **_MROPE},
    "mistral_large4": {"text_config": {**_LATENT, "head_dim": 4, "no_rope_layers": [1] * 4}},
    "muse_glimmer": {"out_hidden_size": 128, "projector_hidden_size": 48},
    "paddleocr_vl": _MROPE,
    "paligemma": {"projection_dim": 32},
    "qwen2_5_omni_thinker": {**_OMNI, **_WINDOW_28},
    "qwen2_vl": _MROPE,
    "qwen3_5": _MROPE,
    "qwen3_5_moe": _MROPE,
    "qwen3_omni_moe_thinker": _OMNI,
    "qwen3_vl": _MROPE,
    "qwen3_vl_moe": _MROPE,
    "qwen4_exp": _MROPE,
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "step3p7": {"text_config": {"sliding_window": 24}, "vision_config": {"image_size": 112}},
    "vipllava": {"vision_feature_layer": [-2, -1]},
}
"""What a type needs besides the tables of `tiny_configs`."""
_NEEDS_TIMM = "its vision encoder is one of timm, which is not installed"
_SIZES = "its configuration ties sizes together in a way that no small model has been found for"
CANNOT_BE_BUILT: dict[str, str] = {
    "deepseek_ocr2": _SIZES,
    "dots3_note": _SIZES,
    "fast_vlm": _NEEDS_TIMM,
    "gemma3n": _NEEDS_TIMM,
    "gemma4_unified": _SIZES,
    "granite4_vision": _SIZES,
    "inkling2": _SIZES,
    "inkling_mm_model": _SIZES,
    "mistral4": "a language model without images, although transformers lists it among the vision-language models",
    "molmo2": _SIZES,
    "muse_spark": _SIZES,
    "nemotron_h_omni": _SIZES,
    "perception_lm": _NEEDS_TIMM,
    "qwen2_5_omni_thinker": "transformers 5.23 itself fails on it: its configuration has no vision_start_token_id",
    "qwen3_omni_moe_thinker": "transformers 5.23 itself fails on it: its configuration has no vision_start_token_id",
    "qwen4_exp": _SIZES,
    "unlimited_ocr": _SIZES,
}
"""Types that the engine may well prune, but of which no tiny model could be made to show it."""
ENCODES_MORE = ("granite_docling", "ovis2")
"""Types whose encoder gives more than rows for the placeholders."""
BATCH_DEPENDS = {
    "hunyuan_vl": "transformers numbers images over the batch, so that a row's positions depend on others"
}
"""Types whose unpruned answers depend on the other rows of a batch."""
TILES = ("llava_next", "llava_next_video", "llava_onevision")
LISTS = ("idefics2", "idefics3", "smolvlm", "granite_docling")


def tiny_family(model_type: str, *, attention: str | None = None, seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode; it never writes a placeholder and never stops early."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(
            transformers.CONFIG_MAPPING[model_type], **{**CHANGES.get(model_type, {}), **changes}
        )
        model_class = getattr(transformers, vision_language_types()[model_type])
        model = model_class._from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # wide enough that attention is not uniform and greedy answers differ
                    fan = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()
                    parameter.copy_(torch.randn(parameter.shape) * fan**-0.5)
                else:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
            head = model.get_output_embeddings()
            head.weight[[IMAGE, VIDEO, START, END, 0, 1, 2, 90, 91, 92, 93, 94]] = 0
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def encoder_arguments(model: Any, rows: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of the vision encoder for prompts with `rows[b]` images each."""
    images = sum(rows)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    family, vlm = model.config.model_type, find_parts(model)[0]
    known = inspect.signature(type(vlm).get_image_features).parameters
    vision = getattr(model.config, "vision_config", None) or model.config
    patch, side = (
        _first(getattr(vision, name, default)) for name, default in (("patch_size", 14), ("image_size", 56))
    )
    special = SPECIAL.get(family)
    if special is not None:
        return special(model, rows, noise)
    if "image_grid_thw" in known:
        grids = [[1, 4 * (i % 2 + 1), 4] for i in range(images)]
        depth = getattr(vision, "temporal_patch_size", 1) or 1
        count = sum(t * h * w for t, h, w in grids)
        given = {
            "pixel_values": noise(count, 3 * depth * patch * patch),
            "image_grid_thw": torch.tensor(grids),
        }
        if "image_merge_sizes" in known:
            given["image_merge_sizes"] = torch.tensor([2] * images)
        return given
    if family in TILES:
        return {
            "pixel_values": noise(images, 3, 3, side, side),
            "image_sizes": torch.tensor([[side, 2 * side]] * images),
        }
    if family in LISTS:
        return {"pixel_values": noise(len(rows), rows[0], 3, side, side)}
    given = {"pixel_values": noise(images, 3, side, side)}
    if "image_sizes" in known and family != "llava":
        given["image_sizes"] = torch.tensor([[side, side]] * images)
    return given


def _sizes(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """MiniCPM: patches of all images in a row, with the size of each."""
    side, images = model.config.vision_config.patch_size, sum(rows)
    return {
        "pixel_values": noise(1, 3, side, 32 * side * images),
        "target_sizes": torch.tensor([[8, 4]] * images),
    }


def _squares(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """Kimi and PaddleOCR: one small image per patch."""
    images, side = sum(rows), model.config.vision_config.patch_size
    patches = noise(16 * images, 3, side, side)
    return {
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, 4, 4]] * images),
    }


def _placed(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """Gemma 4: patches with their places."""
    images, side = sum(rows), model.config.vision_config.patch_size
    x = torch.arange(4)
    places = torch.stack([x.repeat(4), x.repeat_interleave(4)], dim=-1)
    return {
        "pixel_values": noise(images, 16, 3 * side**2),
        "image_position_ids": places.expand(images, -1, -1).clone(),
    }


SPECIAL: dict[str, Any] = {
    "gemma4": _placed,
    "kimi_k25": _squares,
    "paddleocr_vl": _squares,
    "minicpm_ocr": _sizes,
    "minicpmv4_6": _sizes,
    "minicpmv4_7": _sizes,
    "muse_glimmer": lambda model, rows, noise: {
        "pixel_values": noise(16 * sum(rows), 2 * 3 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * sum(rows)),
    },
    "fuyu": lambda model, rows, noise: {"pixel_values": noise(sum(rows), 4, 3 * model.config.patch_size**2)},
    "lfm2_vl": lambda model, rows, noise: {
        "pixel_values": noise(sum(rows), 16, 3 * 14 * 14),
        "spatial_shapes": torch.tensor([[4, 4]] * sum(rows)),
        "pixel_attention_mask": torch.ones(sum(rows), 16, dtype=torch.long),
    },
    "deepseek_vl_hybrid": lambda model, rows, noise: {
        "pixel_values": noise(sum(rows), 3, 56, 56),
        "high_res_pixel_values": noise(sum(rows), 3, 64, 64),
    },
    "granite_docling": lambda model, rows, noise: {
        "pixel_values": noise(len(rows), rows[0], 3, 56, 56),
        "pixel_attention_mask": torch.ones(len(rows), rows[0], dtype=torch.bool),
    },
    "video_llava": lambda model, rows, noise: {"pixel_values_images": noise(sum(rows), 3, 56, 56)},
}
"""Types whose processor lays images out in a way of its own."""


def tiny_prompt(model: Any, rows: Sequence[int] = (1,), seed: int = 0) -> dict[str, Tensor]:
    """A left-padded batch of prompts of random words; row b has `rows[b]` images."""
    generator = torch.Generator().manual_seed(seed)
    vlm = find_parts(model)[0]
    inputs = encoder_arguments(model, rows, generator) if sum(rows) else {}
    lengths: list[int] = []
    if inputs:
        with torch.no_grad():
            output = vlm.get_image_features(**_as_called(inputs), return_dict=True)
        pooled = getattr(output, "pooler_output", None)
        pooled = output.last_hidden_state if pooled is None else pooled
        lengths = [p.reshape(-1, p.shape[-1]).shape[0] for p in pooled]
    if len(lengths) == 1 and sum(rows) > 1:
        lengths = [lengths[0] // sum(rows)] * sum(rows)
    of_one = len(lengths) // max(1, sum(rows))
    entries = iter(lengths)
    prompts = []
    for b, count in enumerate(rows):
        ids = [1, *torch.randint(3, 80, (3 + 2 * b,), generator=generator).tolist()]
        for _ in range(count):
            n = sum(next(entries) for _ in range(of_one))
            ids += [START, *[IMAGE] * n, END, *torch.randint(3, 80, (3,), generator=generator).tolist()]
        prompts.append(torch.tensor(ids))
    longest = max(map(len, prompts))
    ids = torch.stack([torch.cat([p.new_zeros(longest - len(p)), p]) for p in prompts])
    mask = torch.stack([torch.cat([p.new_zeros(longest - len(p)), torch.ones_like(p)]) for p in prompts])
    return with_types(model, {"input_ids": ids, "attention_mask": mask, **inputs})


def _as_called(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Video-LLaVA's `forward` knows the pixels by another name than its encoder."""
    return {
        "pixel_values" if name == "pixel_values_images" else name: value for name, value in inputs.items()
    }


def with_types(model: Any, inputs: dict[str, Tensor], prompt: int | None = None) -> dict[str, Tensor]:
    """Add the token types that some processors write; the prompt has `prompt` columns (None: all)."""
    prompt = inputs["input_ids"].shape[1] if prompt is None else prompt
    known = {
        *inspect.signature(model.forward).parameters,
        *inspect.signature(type(find_parts(model)[0]).forward).parameters,
    }
    kinds = (inputs["input_ids"] == IMAGE).long()
    if model.config.model_type == "paligemma":  # 1 is what comes behind the prompt
        kinds = torch.zeros_like(kinds)
        kinds[:, prompt:] = 1
    return {**inputs, **{name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in known}}


def _first(value: Any) -> int:
    return value if isinstance(value, int) else value[0]


@contextmanager
def only_rows(vlm: Any, keep: Tensor):
    """Let the model see images that have no other visual tokens than `keep`, as numbers over the whole batch."""
    original, own = vlm.get_image_features, vlm.__dict__

    def fewer(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        given = output.pooler_output
        if given is None:  # Fuyu
            output.last_hidden_state = output.last_hidden_state.flatten(0, -2)[keep][None]
            return output
        pooled = torch.cat([p.reshape(-1, p.shape[-1]) for p in given])[keep]
        if isinstance(given, Tensor):
            output.pooler_output = pooled[None] if given.ndim == 3 else pooled
        else:
            output.pooler_output = [pooled]
        for name in output:
            if "deepstack" in name and output[name] is not None:
                levels = output[name]
                output[name] = [
                    r[keep] if isinstance(r, Tensor) else [torch.cat(list(r))[keep]] for r in levels
                ]
        return output

    own["get_image_features"] = fewer
    try:
        yield
    finally:
        del own["get_image_features"]


@torch.no_grad()
def reference(
    model: Any, given: dict[str, Tensor], keep: Tensor, positions: Tensor | None, steps: int
) -> Tensor:
    """Logits [steps, V] of the next tokens of one prompt that holds the visual tokens `keep` only, without a cache.

    Args:
        model: the model, not pruned.
        given: one prompt without padding.
        keep: numbers of the visual tokens that stay.
        positions: of the tokens that are left [A, 1, n], or None for what the model itself counts.
        steps: greedy steps.
    """
    vlm = find_parts(model)[0]
    visual = (given["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    stays = torch.ones(given["input_ids"].shape[1], dtype=torch.bool)
    stays[visual] = False
    stays[visual[keep]] = True
    ids = given["input_ids"][:, stays]
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    logits, prompt = [], ids.shape[1]
    with only_rows(vlm, keep):
        for _ in range(steps):
            call = with_types(
                model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}, prompt
            )
            if positions is not None:
                call["position_ids"] = positions
            logits.append(model(**call, use_cache=False).logits[0, -1])
            ids = torch.cat([ids, logits[-1].argmax().view(1, 1)], dim=1)
            if positions is not None:
                positions = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
    return torch.stack(logits)


def split_rows(model: Any, given: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The prompts of a batch with one image each, alone and without padding."""
    count = len(given["input_ids"])
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    alone = []
    for b in range(count):
        ids = given["input_ids"][b, given["attention_mask"][b].bool()][None]
        own = {}
        for name, value in pixels.items():
            if name == "pixel_values" and "image_grid_thw" in pixels:
                parts = value.split(pixels["image_grid_thw"].prod(dim=1).tolist())
                own[name] = parts[b]
            elif name == "pixel_values" and "target_sizes" in pixels:
                own[name] = value.chunk(count, dim=-1)[b]
            elif len(value) == count:
                own[name] = value[b : b + 1]
            else:
                own[name] = value[:, b : b + 1]
        alone.append(with_types(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **own}))
    return alone

"""Small random models of every supported family, with matching prompts, for tests."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import UnknownNameError

IMAGE_TOKEN, VISION_START, VISION_END, VIDEO_TOKEN = 97, 95, 96, 98
VOCABULARY, SIDE, PATCH = 128, 56, 14
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "projection_dim": 32,
}
_LLAVA = {
    "vision_config": _CLIP,
    "text_config": {**_TEXT, "model_type": "llama"},
    "image_token_id": IMAGE_TOKEN,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
_QWEN = {
    "vision_config": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": PATCH,
        "window_size": 56,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    },
    "text_config": {
        **_TEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    },
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "tie_word_embeddings": False,
}
_PINPOINTS = [[SIDE * h, SIDE * w] for h, w in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
_KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llava": ("LlavaConfig", "LlavaForConditionalGeneration", _LLAVA),
    "llava_next": (
        "LlavaNextConfig",
        "LlavaNextForConditionalGeneration",
        {**_LLAVA, "image_grid_pinpoints": _PINPOINTS},
    ),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration", _QWEN),
}


def tiny_model(
    family: str,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    layers: int = 4,
    seed: int = 0,
) -> Any:
    """A random model of the family, in evaluation mode; it never generates placeholders and never stops early.

    Raises:
        UnknownNameError: no such family.
    """
    import copy

    import transformers

    if family not in _KINDS:
        raise UnknownNameError("model family", family, _KINDS)
    config_name, model_name, arguments = _KINDS[family]
    arguments = copy.deepcopy(arguments)
    arguments["text_config"]["num_hidden_layers"] = layers
    config = getattr(transformers, config_name)(**arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # vectors, such as the class embedding, keep the values of the constructor
        model = getattr(transformers, model_name)._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # Large enough that attention is not uniform and greedy responses differ.
                scale = 2 * parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        if family == "llava_next":
            model.model.image_newline.copy_(torch.randn(model.model.image_newline.shape, generator=generator))
        model.lm_head.weight[[IMAGE_TOKEN, VISION_START, VISION_END, VIDEO_TOKEN]] = 0
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def tiny_inputs(
    model: Any,
    shapes: Sequence[Sequence[tuple[int, int]]] = (((56, 56),),),
    text: Sequence[int] = (5, 7),
    seed: int = 0,
) -> dict[str, Tensor]:
    """A left-padded batch of prompts of random words around random images.

    Args:
        model: result of `tiny_model`.
        shapes: for each row the (height, width) of its images in pixels. LLaVA-1.5 takes 56 x 56 for all;
            LLaVA-NeXT any; Qwen2.5-VL multiples of 28.
        text: lengths of the runs of words; row b begins with text[b % len(text)], then they alternate.
        seed: seed of words and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = [shape for row in shapes for shape in row]
    inputs = _pixels(model, flat, generator, next(model.parameters()).dtype)
    lengths = iter(_lengths(model, flat))
    rows = []
    for b, row in enumerate(shapes):
        ids: list[int] = []
        for i in range(len(row) + 1):
            n = text[(b + i) % len(text)]
            ids += torch.randint(3, 90, (n,), generator=generator).tolist()
            if i < len(row):
                ids += [VISION_START, *[IMAGE_TOKEN] * next(lengths), VISION_END]
        rows.append(torch.tensor(ids))
    longest = max(len(r) for r in rows)
    inputs["input_ids"] = torch.stack([torch.cat([r.new_zeros(longest - len(r)), r]) for r in rows])
    inputs["attention_mask"] = torch.stack(
        [torch.cat([r.new_zeros(longest - len(r)), torch.ones_like(r)]) for r in rows]
    )
    if model.config.model_type == "qwen2_5_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_TOKEN).int()
    return inputs


def _pixels(
    model: Any, shapes: Sequence[tuple[int, int]], generator: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    if not shapes:
        return {}
    family = model.config.model_type
    if family == "qwen2_5_vl":
        grids = torch.tensor([[1, h // PATCH, w // PATCH] for h, w in shapes])
        count = int(grids.prod(dim=1).sum())
        values = torch.randn(count, 3 * 2 * PATCH * PATCH, generator=generator)
        return {"pixel_values": values.to(dtype), "image_grid_thw": grids}
    tiles = [1] * len(shapes) if family == "llava" else _tiles(model, shapes)
    values = torch.zeros(len(shapes), max(tiles), 3, SIDE, SIDE)
    for i, t in enumerate(tiles):
        values[i, :t] = torch.randn(t, 3, SIDE, SIDE, generator=generator)
    if family == "llava":
        return {"pixel_values": values[:, 0].to(dtype)}
    return {"pixel_values": values.to(dtype), "image_sizes": torch.tensor(shapes)}


def _tiles(model: Any, shapes: Sequence[tuple[int, int]]) -> list[int]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return [image_size_to_num_patches(s, model.config.image_grid_pinpoints, SIDE) for s in shapes]


def _lengths(model: Any, shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Visual tokens of each image."""
    family, per_tile = model.config.model_type, (SIDE // PATCH) ** 2
    if not shapes:
        return []
    if family == "qwen2_5_vl":
        return [h * w // (2 * PATCH) ** 2 for h, w in shapes]
    if family == "llava":
        return [per_tile] * len(shapes)
    numbers = [torch.zeros(t, per_tile, 1) for t in _tiles(model, shapes)]
    packed, _ = model.model.pack_image_features(
        numbers, torch.tensor(shapes), vision_feature_select_strategy="default", image_newline=torch.zeros(1)
    )
    return [len(p) for p in packed]

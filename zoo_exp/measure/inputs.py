"""Prompts for timing where no data set is at hand: random words around one random image, at a model's real size."""

from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter

FIRST_WORD = 3
"""Smaller ids are marks for begin, end and padding."""


def made_up_inputs(
    adapter: VLMAdapter,
    batch_size: int = 1,
    text_tokens: int = 60,
    image_size: tuple[int, int] = (672, 672),
    seed: int = 0,
) -> dict[str, Tensor]:
    """What a processor would give for `batch_size` prompts with one image each, on the model's device.

    Args:
        adapter: of the model.
        batch_size: B.
        text_tokens: tokens besides the visual ones: 35 before the image (the chat's beginning), the rest behind it.
        image_size: height and width in pixels; LLaVA-1.5 resizes every image, so it does not matter there.
        seed: of words and pixels.

    Raises:
        InvalidValueError: sizes that no prompt can have.
    """
    if batch_size < 1 or text_tokens < 2:
        raise InvalidValueError(f"batch={batch_size} text={text_tokens}: at least 1 prompt of 2 words")
    generator = torch.Generator().manual_seed(seed)
    pixels, n_visual = _pixels(adapter, batch_size, image_size, generator)
    parameter = next(adapter.model.parameters())
    pixels["pixel_values"] = pixels["pixel_values"].to(parameter.dtype)
    before = min(35, text_tokens - 1)
    text = _words(adapter, (batch_size, text_tokens), generator)
    image = torch.full((batch_size, n_visual), adapter.image_token_id)
    ids = torch.cat([text[:, :before], image, text[:, before:]], dim=1)
    inputs = {**pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(parameter.device) for name, value in inputs.items()}


def _words(adapter: VLMAdapter, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Ids of words, without the marks and placeholders that configurations name."""
    config = adapter.model.config
    special = {
        value for name, value in config.to_dict().items() if name.endswith("token_id") and value is not None
    }
    known = torch.arange(FIRST_WORD, config.get_text_config().vocab_size)
    words = known[~torch.isin(known, torch.tensor(sorted({adapter.image_token_id, *special})))]
    return words[torch.randint(len(words), shape, generator=generator)]


def _pixels(
    adapter: VLMAdapter, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
) -> tuple[dict[str, Tensor], int]:
    """Image inputs, and visual tokens of each image."""
    config = adapter.model.config
    vision = config.vision_config
    height, width = image_size
    if min(height, width) < 1:
        raise InvalidValueError(f"image={height}x{width}: height and width in pixels, such as 672x672")
    if adapter.family == "qwen2_5_vl":
        side = vision.patch_size * vision.spatial_merge_size
        rows, columns = max(1, height // side), max(1, width // side)
        unit = vision.spatial_merge_size
        grid = torch.tensor([[1, rows * unit, columns * unit]] * batch_size)
        depth = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        values = torch.randn(batch_size * rows * columns * unit**2, depth, generator=generator)
        return {"pixel_values": values, "image_grid_thw": grid}, rows * columns
    side = vision.image_size
    if adapter.family == "llava_next":
        return _tiles(adapter, batch_size, image_size, generator)
    if adapter.n_visual is None:
        raise InvalidValueError(f"the model family {adapter.family} has no made-up prompts")
    return {"pixel_values": torch.randn(batch_size, 3, side, side, generator=generator)}, adapter.n_visual


def _tiles(
    adapter: Any, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
) -> tuple[dict[str, Tensor], int]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    vision, sizes = adapter.model.config.vision_config, torch.tensor([image_size] * batch_size)
    side = vision.image_size
    tiles = image_size_to_num_patches(sizes[0], adapter.model.config.image_grid_pinpoints, side)
    values = torch.randn(batch_size, tiles, 3, side, side, generator=generator)
    n_visual = len(adapter.sources(sizes[:1], (side // vision.patch_size) ** 2)[0])
    return {"pixel_values": values, "image_sizes": sizes}, n_visual

"""Synthetic prompts for timing without a data set: random words around a random image of realistic size."""

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter

FIRST_WORD = 3
"""Smaller ids are special tokens (begin, end and padding)."""


def made_up_inputs(
    adapter: VLMAdapter,
    batch_size: int = 1,
    text_tokens: int = 60,
    image_size: tuple[int, int] = (672, 672),
    seed: int = 0,
) -> dict[str, Tensor]:
    """The processor's output for `batch_size` random prompts with one image each, on the model's device.

    Args:
        adapter: adapter of the model.
        batch_size: B.
        text_tokens: number of text tokens: 35 before the image (chat template), the rest after it.
        image_size: height and width in pixels; no effect on LLaVA-1.5, which resizes every image.
        seed: seed of words and pixels.

    Raises:
        InvalidValueError: a size is below 1, or the family does not support synthetic images.
    """
    if batch_size < 1 or text_tokens < 2:
        raise InvalidValueError(f"batch={batch_size} text={text_tokens}: at least 1 prompt of 2 words")
    if min(image_size) < 1:
        raise InvalidValueError(
            f"image={image_size[0]}x{image_size[1]}: height and width in pixels, such as 672x672"
        )
    generator = torch.Generator().manual_seed(seed)
    pixels, n_visual = adapter.made_up_images(batch_size, image_size, generator)
    parameter = next(adapter.model.parameters())
    pixels["pixel_values"] = pixels["pixel_values"].to(parameter.dtype)
    before = min(35, text_tokens - 1)
    text = _words(adapter, (batch_size, text_tokens), generator)
    image = torch.full((batch_size, n_visual), adapter.image_token_id)
    ids = torch.cat([text[:, :before], image, text[:, before:]], dim=1)
    inputs = {**pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(parameter.device) for name, value in inputs.items()}


def _words(adapter: VLMAdapter, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random word ids, excluding special tokens and placeholders of the configuration."""
    config = adapter.model.config
    special = {
        value for name, value in config.to_dict().items() if name.endswith("token_id") and value is not None
    }
    known = torch.arange(FIRST_WORD, config.get_text_config().vocab_size)
    words = known[~torch.isin(known, torch.tensor(sorted({adapter.image_token_id, *special})))]
    return words[torch.randint(len(words), shape, generator=generator)]

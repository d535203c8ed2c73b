"""Beams of a prompt with several images, which older versions of `transformers` give the wrong ones."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo_exp.errors import InvalidValueError


def refuse_misplaced_images(vlm: Any, given: Mapping[str, Any], image_token_id: int) -> None:
    """Refuse beam search and several answers per prompt where pixels are repeated instead of features.

    `generate` of transformers 5.17 repeats every row of `input_ids` and every image for itself, so that two beams of a
    prompt with the images A and B read A A and B B (spec: engine 2.4). Newer versions repeat features row by row, and
    their `forward` takes `mm_encoder_outputs`.

    Args:
        vlm: the inner model.
        given: arguments of its call, by name.
        image_token_id: the placeholder.

    Raises:
        InvalidValueError: prompts and images are repeated like that, and some prompt has several images.
    """
    ids, pixels = given.get("input_ids"), given.get("pixel_values")
    if ids is None or pixels is None or "mm_encoder_outputs" in inspect.signature(vlm.forward).parameters:
        return
    with_images = int((ids == image_token_id).any(dim=1).sum())
    copies = range(2, len(ids) + 1)
    if len(pixels) > with_images and any(_repeated(ids, n) and _repeated(pixels, n) for n in copies):
        import transformers

        raise InvalidValueError(
            f"beam search and several answers per prompt: transformers {transformers.__version__} hands the images of "
            "a prompt with several of them to the wrong rows; take transformers 5.23, or one image per prompt"
        )


def _repeated(rows: Tensor, times: int) -> bool:
    """Whether every row stands there `times` times in a row."""
    if len(rows) % times:
        return False
    groups = rows.view(-1, times, *rows.shape[1:])
    return bool((groups == groups[:, :1]).all())

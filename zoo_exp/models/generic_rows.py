"""Rows of visual tokens per image or video, from the forms in which versions of transformers return them."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generic_support import READ_ON

GRIDS = ("image_grid_thw", "image_grid_hw", "spatial_shapes", "target_sizes")
"""Inputs of vision encoders that give rows and columns of patches of every image."""
ENCODER_OPTIONS = ("vision_feature_layer", "vision_feature_select_strategy")
"""Arguments of `get_image_features` that the configuration has a value for."""
_OTHER_PIXELS = ("pixel_values_images", "image_patches")
"""Names of `pixel_values` elsewhere: of Video-LLaVA, and of Fuyu before transformers 5.23."""


def pixel_inputs(vlm: Any) -> tuple[str, ...]:
    """Names under which the inner model's `forward` takes the pixels of images."""
    known = inspect.signature(type(vlm).forward).parameters
    return tuple(name for name in ("pixel_values", *_OTHER_PIXELS) if name in known)


def named_pixels(call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the pixels under the name `pixel_values`."""
    named = {name: value for name, value in call.items() if name not in _OTHER_PIXELS}
    for other in _OTHER_PIXELS:
        if call.get(other) is not None:
            named["pixel_values"] = call[other]
    return named


def encoder_arguments(vlm: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the installed `get_image_features` names them, with the options that it requires.

    Args:
        vlm: the inner model.
        call: arguments by name, with the pixels as `pixel_values`.
    """
    known = inspect.signature(type(vlm).get_image_features).parameters
    named = dict(call)
    other = next((name for name in _OTHER_PIXELS if name in known), None)
    if "pixel_values" in named and "pixel_values" not in known and other is not None:
        named[other] = named.pop("pixel_values")
    for option in ENCODER_OPTIONS:
        if option in known and known[option].default is inspect.Parameter.empty and option not in named:
            config = vlm.config
            vision = getattr(config, "vision_config", config)
            named[option] = getattr(config, option, getattr(vision, option, None))
    return named


def split_rows(pooled: Any, call: Mapping[str, Any], config: Any) -> list[Tensor]:
    """What a model returns, per image or video where it returned the rows of all of them as one tensor.

    Args:
        pooled: `pooler_output` of a feature call.
        call: its arguments by name.
        config: the model's configuration.

    Returns:
        One tensor per entry of `pooled`, or per image [N, D]. Rows that cannot be told apart stay as they are.
    """
    entries = list(pooled)
    named = next((call[n] for n in (*GRIDS, "video_grid_thw") if isinstance(call.get(n), Tensor)), None)
    grids = [] if named is None else [[int(n) for n in grid] for grid in named.tolist()]
    if isinstance(pooled, Tensor) and pooled.ndim == 2:  # idefics2, MiniMax-M3 of transformers 5.17
        flat = pooled
        sizes = _by_grid(len(flat), grids, config) if grids else _equal(len(flat), call.get("pixel_values"))
    elif len(entries) == 1 < len(grids) and isinstance(entries[0], Tensor) and entries[0].ndim == 2:
        flat = entries[0]  # HunYuan-VL of transformers 5.17
        sizes = _by_grid(len(flat), grids, config)
    else:
        return entries
    return entries if sizes is None else list(flat.split(sizes))


def _equal(total: int, pixels: Any) -> list[int] | None:
    """The same number of rows for every image of [B, images, 3, H, W], where padding images are zero."""
    if not isinstance(pixels, Tensor) or pixels.ndim != 5:
        return None
    images = int((pixels.flatten(0, 1) != 0).flatten(1).any(dim=1).sum())
    return [total // images] * images if images and total % images == 0 else None


def _by_grid(total: int, grids: Sequence[Sequence[int]], config: Any) -> list[int] | None:
    """Rows in proportion to the patches; or one per merged patch, with separators (HunYuan-VL)."""
    areas = [math.prod(grid) for grid in grids]
    if all(total * area % sum(areas) == 0 for area in areas):
        return [total * area // sum(areas) for area in areas]
    vision = getattr(config, "vision_config", config)
    merge = getattr(vision, "spatial_merge_size", None) or 1
    merged = [(height // merge, width // merge) for *_, height, width in grids]
    for newlines in (0, 1):  # a newline per row, and tokens before and after the image
        sizes = [height * (width + newlines) for height, width in merged]
        around, rest = divmod(total - sum(sizes), len(grids))
        if not rest and 0 <= around <= 2:
            return [size + around for size in sizes]
    return None


def rows_of(pooled: Sequence[Tensor], family: str) -> list[Tensor]:
    """What a model gives per image, as rows [N, D].

    Raises:
        InvalidValueError: something else than rows.
    """
    if not all(isinstance(p, Tensor) and p.ndim >= 2 for p in pooled):
        raise InvalidValueError(
            f"model type '{family}' cannot be pruned: its image features are not one row per visual token. {READ_ON}"
        )
    return [p.reshape(-1, p.shape[-1]) for p in pooled]

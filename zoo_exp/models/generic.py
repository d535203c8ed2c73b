"""Any stock vision-language model whose image features take one placeholder per row."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.capture import Capture
from zoo_exp.models.generic_prompt import GRIDS, prune_prepared
from zoo_exp.models.generic_support import READ_ON, check_type, find_parts
from zoo_exp.models.prompt import PrunedPrompt

_ENCODER_OPTIONS = ("vision_feature_layer", "vision_feature_select_strategy")


class GenericAdapter(VLMAdapter):
    """A model without an adapter of its own: what it is made of is found by inspection and checked by value."""

    axes: ClassVar[int | None] = None
    self_check: ClassVar[bool] = True

    def __init__(self, model: Any, processor: Any = None) -> None:
        config = getattr(model, "config", None)
        check_type(str(getattr(config, "model_type", type(model).__name__)))
        super().__init__(model, processor)
        if _has_position_axes(self.vlm):
            self.positions = "original"
        known = inspect.signature(type(self.vlm).get_image_features).parameters
        self.encoder_inputs = tuple(n for n in known if n not in ("self", "kwargs", *_ENCODER_OPTIONS))

    def parts(self) -> tuple[Any, Any]:
        """The inner model, and its decoder, whatever they are called."""
        return find_parts(self.model)

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """None yet."""
        return {}

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """One entry per image (or tile, where the model gives one tensor per tile)."""
        rows = rows_of(pooled, self.family_name)
        grids = self._grids(rows, call)
        return [VisualTokens(projected=r, grid=grid) for r, grid in zip(rows, grids, strict=True)]

    def complete(self, images: list[VisualTokens], output: Any) -> list[VisualTokens]:
        """Add the rows of DeepStack."""
        levels = getattr(output, "deepstack_features", None)
        if not levels:
            return images
        flat = [level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels]
        stacked = torch.stack([level.reshape(-1, level.shape[-1]) for level in flat])
        parts = stacked.split([image.count for image in images], dim=1)
        return [replace(image, deepstack=part) for image, part in zip(images, parts, strict=True)]

    def prune(
        self,
        inputs: Mapping[str, Any],
        tokens: Sequence[Sequence[VisualTokens]],
        selections: Sequence[Sequence[Selection]],
        positions: str | None,
    ) -> PrunedPrompt:
        """The model itself says what its decoder reads."""
        return prune_prepared(self, inputs, tokens, selections, positions)

    def _grids(self, rows: Sequence[Tensor], call: Mapping[str, Any]) -> list[tuple[int, int] | None]:
        """Rows and columns of the token raster of every image that is one."""
        named = next((call[n] for n in GRIDS if call.get(n) is not None), None)
        if named is not None and len(named) == len(rows):
            return [_merged(size.tolist(), len(r)) for size, r in zip(named, rows, strict=True)]
        if hasattr(self.vlm, "image_newline") or len({len(r) for r in rows}) > 1:
            return [None] * len(rows)
        side = math.isqrt(len(rows[0])) if rows else 0
        square = side > 1 and side * side == len(rows[0]) and call.get("image_sizes") is None
        return [(side, side) if square else None] * len(rows)

    def encoder_call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `get_image_features`; Video-LLaVA's processor has another name for its pixels."""
        call = super().encoder_call(inputs)
        renamed = call.pop("pixel_values_images", None)
        return call if renamed is None else {**call, "pixel_values": renamed}

    def pooled(self, output: Any) -> list[Tensor]:
        """Rows per image; Llama 4 and Fuyu give them under another name, Llama 4 before its projector."""
        rows = getattr(output, "pooler_output", None)
        if rows is None:
            rows = getattr(output, "last_hidden_state", output)
            projector = getattr(self.vlm, "multi_modal_projector", None)
            if projector is not None and isinstance(rows, Tensor):
                count = len(rows)
                rows = projector(rows.view(-1, rows.shape[-1]))
                rows = rows.view(count, -1, rows.shape[-1])
        return list(rows)


def _merged(size: list[int], count: int) -> tuple[int, int] | None:
    """The raster of `count` tokens from that of the patches (height, width), or (1, height, width)."""
    *frames, height, width = size
    factor = math.isqrt(height * width // count) if count else 0
    if any(f != 1 for f in frames) or not factor or (height // factor) * (width // factor) != count:
        return None
    return height // factor, width // factor


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


def _has_position_axes(vlm: Any) -> bool:
    return any(hasattr(vlm, name) for name in ("get_rope_index", "compute_3d_position_ids"))

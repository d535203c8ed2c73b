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
from zoo_exp.models.generic_encoder import ATTENTION, NO_CLS, OTHER_ROWS, find_encoder
from zoo_exp.models.generic_projector import Found, candidates, find_projector, parts_of
from zoo_exp.models.generic_prompt import prune_prepared
from zoo_exp.models.generic_rows import (
    ENCODER_OPTIONS,
    GRIDS,
    encoder_arguments,
    named_pixels,
    pixel_inputs,
    rows_of,
    split_rows,
)
from zoo_exp.models.generic_support import READ_ON, check_type, find_parts
from zoo_exp.models.generic_tiles import regrouped
from zoo_exp.models.placeholders import refuse_misplaced_images
from zoo_exp.models.prompt import PrunedPrompt

_OF_PROJECTOR = frozenset({"features", "projector"})
_NO_PROJECTOR = "no module is found that maps rows to the rows that its language model reads"
_ENCODER = "only adapters of their own, and CLIP or SigLIP encoders, give the attention of a vision encoder"
_LAYERS = "only adapters of their own read the layers of a vision encoder"
_REASONS = {
    **dict.fromkeys(ATTENTION, _ENCODER),
    **dict.fromkeys(("hidden", "replay"), _LAYERS),
    "resize": "how its processor cuts an image of another size is not known",
    "clip": "only a CLIP vision encoder of an adapter of its own has CLIP's heads",
}


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
        self._candidates = candidates(self.vlm, self.llm)
        self._has_newlines = hasattr(self.vlm, "image_newline")
        self._encoder = None if self._has_newlines else find_encoder(self.vlm)
        self._known: Found | None = None
        self.levels_by_image = True
        """Whether a level of DeepStack's rows is a list with one entry per image (newer versions) or one tensor."""
        known = inspect.signature(type(self.vlm).get_image_features).parameters
        inputs = [n for n in known if n not in ("self", "kwargs", *ENCODER_OPTIONS)]
        self.pixel_inputs = pixel_inputs(self.vlm)
        self.encoder_inputs = tuple(dict.fromkeys([*inputs, *self.pixel_inputs]))

    def parts(self) -> tuple[Any, Any]:
        """The inner model, and its decoder, whatever they are called."""
        return find_parts(self.model)

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """What may be the projector, with all of its parts; once it is known, that alone. And the encoder."""
        if not needs & (_OF_PROJECTOR | ATTENTION) and not self._has_newlines:
            return {}
        encoder = {} if self._encoder is None else self._encoder.taps(needs)
        return {**self._projector_taps(), **encoder}

    def _projector_taps(self) -> dict[str, nn.Module]:
        if self._known is not None:
            path, part = self._known.path, self._known.part
            wanted = {path: self._candidates[path]}
            return wanted | ({f"{path}.{part}": self._candidates[path].get_submodule(part)} if part else {})
        wanted = {}
        for path, module in self._candidates.items():
            wanted |= {f"{path}.{part}".rstrip("."): one for part, one in parts_of(module)}
        return wanted

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """One entry per tensor that the model gives: per image, tile or prompt (see `regrouped`).

        Raises:
            InvalidValueError: a need that this family cannot fill; the message says why, and which selectors work.
        """
        rows = rows_of(pooled, self.family_name)
        gives = self._encoder.gives if self._encoder is not None else frozenset()
        for need in sorted((needs & set(_REASONS)) - gives):
            raise self._cannot(need, NO_CLS if gives and need in ATTENTION else _REASONS[need])
        reads = bool(needs & (_OF_PROJECTOR | ATTENTION)) or self._has_newlines
        found = self._find(capture, torch.cat(rows)) if reads else None
        if found is None and needs & _OF_PROJECTOR:
            raise self._cannot(min(needs & _OF_PROJECTOR), _NO_PROJECTOR)
        attention = self._attention(capture, rows, found, needs)
        images = []
        start = 0
        for number, (r, grid) in enumerate(zip(rows, self._grids(rows, call), strict=True)):
            mine = slice(start, start + len(r))
            start = mine.stop
            fields: dict[str, Any] = {"grid": grid, **{n: value[number] for n, value in attention.items()}}
            if "cls_attention" in fields and self._encoder is not None:
                fields["attention_heads"] = self._encoder.heads
            if found is not None:
                if "features" in needs:
                    fields["features"] = found.features[mine]
                if "projector" in needs:
                    fields |= {"project": found.project, "mlp": found.mlp}
                if self._has_newlines:
                    fields["tile"] = _tiles(found.source[mine], found.per_tile)
            images.append(VisualTokens(projected=r, **fields))
        return images

    def _attention(
        self, capture: Capture, rows: Sequence[Tensor], found: Found | None, needs: frozenset[str]
    ) -> dict[str, Tensor]:
        """What the vision encoder's attention gives, per image [B, N, ...].

        Raises:
            InvalidValueError: the rows of the encoder are not those of the visual tokens.
        """
        if self._encoder is None or not needs & ATTENTION:
            return {}
        given = None
        if found is not None and torch.equal(found.source, torch.arange(len(found.source)).to(found.source)):
            given = self._encoder.rows(capture, needs, found.features)
        if given is None or any(len(v) != len(rows) for v in given.values()):
            raise self._cannot(min(needs & ATTENTION), OTHER_ROWS)
        return given

    def projector_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """The projector, where an earlier image has shown which module it is."""
        if "projector" not in needs or self._known is None:
            return {}
        return {"project": self._known.project, "mlp": self._known.mlp}

    def _find(self, capture: Capture, rows: Tensor) -> Found | None:
        newline = getattr(self.vlm, "image_newline", None)
        state = self._known.state() if self._known is not None else None
        if self._known is not None and state == self._known.seen:
            again = self._known.read(capture.all, rows, newline)
            if again is not None:
                return again
        self._known = find_projector(self._candidates, capture.all, rows, newline)
        return self._known

    def _cannot(self, need: str, why: str) -> InvalidValueError:
        from zoo_exp import selectors

        lost = set(_REASONS) | (_OF_PROJECTOR if why == _NO_PROJECTOR else set())
        if self._encoder is not None and why != OTHER_ROWS:
            lost -= self._encoder.gives
        works = [name for name in selectors.available() if not selectors.get(name).needs & lost]
        return InvalidValueError(
            f"model type '{self.family_name}' does not give '{need}': {why}. Selectors that work: {', '.join(works)}. "
            f"{READ_ON}"
        )

    def complete(self, images: list[VisualTokens], output: Any) -> list[VisualTokens]:
        """Add the rows of DeepStack."""
        levels = getattr(output, "deepstack_features", None)
        if not levels:
            return images
        self.levels_by_image = not isinstance(levels[0], Tensor)
        flat = [level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels]
        stacked = torch.stack([level.reshape(-1, level.shape[-1]) for level in flat])
        parts = stacked.split([image.count for image in images], dim=1)
        return [replace(image, deepstack=part) for image, part in zip(images, parts, strict=True)]

    def regrouped(self, ids: Tensor, images: list[VisualTokens]) -> list[VisualTokens]:
        """Images of one prompt, where the model gives tiles, or all images of a prompt together."""
        return regrouped(self.family_name, ids, self.image_token_id, images)

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
        """Arguments of `image_features`; some processors have another name for the pixels."""
        return named_pixels(super().encoder_call(inputs))

    def check_call(self, given: Mapping[str, Any]) -> None:
        """Refuse images of several beams that the installed transformers would mix up."""
        pixels = next((given[n] for n in self.pixel_inputs if isinstance(given.get(n), Tensor)), None)
        refuse_misplaced_images(self.vlm, {**given, "pixel_values": pixels}, self.image_token_id)

    def image_features(self, **call: Any) -> Any:
        """The model's unmodified image features, with its own names of the arguments."""
        return super().image_features(**encoder_arguments(self.vlm, call))

    def call_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "image"
    ) -> dict[str, Any]:
        """Arguments of a call of `get_image_features` (or of `get_video_features`), by the names of newer versions."""
        named = super().call_arguments(args, kwargs, kind)
        if kind == "video" and "pixel_values" in named:  # transformers 5.17
            named["pixel_values_videos"] = named.pop("pixel_values")
        return named_pixels(named) if kind == "image" else named

    def pooled(self, output: Any, call: Mapping[str, Any]) -> list[Tensor]:
        """Rows per image; Llama 4 and Fuyu give them under another name, Llama 4 before its projector."""
        rows = getattr(output, "pooler_output", None)
        if rows is None:
            rows = getattr(output, "last_hidden_state", output)
            projector = getattr(self.vlm, "multi_modal_projector", None)
            if projector is not None and isinstance(rows, Tensor):
                count = len(rows)
                rows = projector(rows.view(-1, rows.shape[-1]))
                rows = rows.view(count, -1, rows.shape[-1])
        return split_rows(rows, call, self.model.config)


def _tiles(source: Tensor, per_tile: int) -> Tensor:
    """Tile number of each token of an image, from 0; -1 for newlines."""
    tile = torch.where(source < 0, -1, source // per_tile)
    real = tile[tile >= 0]
    return torch.where(tile < 0, tile, tile - real.min()) if len(real) else tile


def _merged(size: list[int], count: int) -> tuple[int, int] | None:
    """The raster of `count` tokens from that of the patches (height, width), or (1, height, width)."""
    *frames, height, width = size
    factor = math.isqrt(height * width // count) if count else 0
    if any(f != 1 for f in frames) or not factor or (height // factor) * (width // factor) != count:
        return None
    return height // factor, width // factor


def _has_position_axes(vlm: Any) -> bool:
    return any(hasattr(vlm, name) for name in ("get_rope_index", "compute_3d_position_ids"))

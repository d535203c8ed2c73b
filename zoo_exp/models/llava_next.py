"""LLaVA-NeXT: a base tile and a grid of tiles per image, cropped to the image's shape, one newline per row."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import Tiles, VisualTokens
from zoo_exp.models.capture import Capture
from zoo_exp.models.llava import LLAMA_7B, LLAVA_15, LlavaAdapter

NEWLINE = -1
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


class LlavaNextAdapter(LlavaAdapter):
    """`LlavaNextForConditionalGeneration` (LLaVA 1.6).

    Rows of newline tokens are zero in every captured field, and their tile number is -1.
    """

    family: ClassVar[str] = "llava_next"
    model_class: ClassVar[str] = "LlavaNextForConditionalGeneration"
    config_class: ClassVar[str] = "LlavaNextConfig"
    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llava-hf/llava-v1.6-vicuna-7b-hf": {
            **LLAVA_15,
            "text_config": LLAMA_7B,
            "image_grid_pinpoints": _PINPOINTS,
        },
    }

    @classmethod
    def processor_class(cls) -> Any:
        """The family's processor class; `AutoProcessor` would require torchvision."""
        from transformers import LlavaNextProcessor

        return LlavaNextProcessor

    def made_up_images(
        self, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Tiles of an image of that size."""
        vision, sizes = self.model.config.vision_config, torch.tensor([image_size] * batch_size)
        side = vision.image_size
        values = torch.randn(batch_size, self.tile_count(sizes[0]), 3, side, side, generator=generator)
        n_visual = len(self.sources(sizes[:1], (side // vision.patch_size) ** 2)[0])
        return {"pixel_values": values, "image_sizes": sizes}, n_visual

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.n_visual = None

    def collect(
        self,
        capture: Capture,
        pooled: Sequence[Tensor],
        call: Mapping[str, Any],
        needs: frozenset[str],
    ) -> list[VisualTokens]:
        """One entry per image, in the order of the packed sequence."""
        rows = self.vision_encoder.rows(capture, needs) | self.projector_rows(capture, needs)
        per_tile = capture["projector"].tensor.shape[1]
        shared = self.projector_fields(needs)
        images, first = [], 0
        sizes = torch.as_tensor(call["image_sizes"]).cpu()
        for projected, source, size in zip(pooled, self.sources(sizes, per_tile), sizes, strict=True):
            source = sent(source, projected.device)
            tiles = slice(first, first + self.tile_count(size))
            first = tiles.stop
            fields: dict[str, Any] = {
                name: value[tiles.start] if name in ("cls", "cls_key") else _pick(value[tiles], source)
                for name, value in rows.items()
            }
            fields["tile"] = torch.where(source == NEWLINE, NEWLINE, source // per_tile)
            if "hidden" in needs:
                hidden = self.vision_encoder.hidden(capture, tiles)
                fields["hidden"] = {layer: _rows(value, source) for layer, value in hidden.items()}
            if "replay" in needs:
                fields["replay"] = self.vision_encoder.replay(capture, tiles, source)
            if "cls_attention" in needs:
                fields["attention_heads"] = self.vision_encoder.heads
            if "layer_attention" in needs:
                fields["layer_attention"] = self.vision_encoder.layer_attention(capture, tiles, source)
            if "cls" in needs:
                whole = {name: value[tiles] for name, value in rows.items()}
                whole["projected"] = capture["projector"].tensor[tiles]
                fields["tiles"] = Tiles(self._whole_tiles(whole, shared), source, self.tile_grid(size))
            images.append(VisualTokens(projected=projected, **shared, **fields))
        return images

    def _whole_tiles(self, rows: Mapping[str, Tensor], shared: Mapping[str, Any]) -> tuple[VisualTokens, ...]:
        """Every tile [T, N, ...] as a separate image."""
        return tuple(
            VisualTokens(**dict(zip(rows, tile, strict=True)), grid=(self.side, self.side), **shared)
            for tile in zip(*rows.values(), strict=True)
        )

    def tile_count(self, size: Tensor) -> int:
        """Tiles of an image, the base tile included; cropping may remove some of them entirely."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = self.model.config
        return int(
            image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        )

    def tile_grid(self, size: Tensor) -> tuple[int, int]:
        """Rows and columns of the grid of tiles after the base tile."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        config = self.model.config
        rows, columns = get_anyres_image_grid_shape(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        return int(rows), int(columns)

    def sources(self, image_sizes: Tensor, per_tile: int) -> list[Tensor]:
        """For each image, tile * per_tile + place of every token of its sequence [N]; -1 for newlines.

        Row numbers pass through the model's own `pack_image_features` in place of features, so that cropping and
        newlines are those of the installed version.
        """
        config = self.model.config
        numbers = [
            torch.arange(tiles * per_tile, dtype=torch.float64).view(tiles, per_tile, 1)
            for tiles in map(self.tile_count, image_sizes)
        ]
        packed, _ = self.vlm.pack_image_features(
            numbers,
            image_sizes,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_newline=torch.tensor([float(NEWLINE)], dtype=torch.float64),
        )
        return [image[:, 0].long() for image in packed]


def _pick(value: Tensor, source: Tensor) -> Tensor:
    """Rows of [T, N, ...] by flat number, zeros for newlines."""
    return _rows(value.flatten(0, 1), source)


def _rows(value: Tensor, source: Tensor) -> Tensor:
    picked = value[source.clamp(min=0)]
    picked[source == NEWLINE] = 0
    return picked

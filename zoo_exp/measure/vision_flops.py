"""FLOPs of vision towers and projectors, from a model's configuration: 1 multiply-add = 2 FLOP."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import UnknownNameError


@dataclass(frozen=True)
class Encoding:
    """FLOPs of turning images into visual tokens: the vision tower, and the projector behind it."""

    tower: int = 0
    projector: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.tower + self.projector


def linear(rows: int, inputs: int, outputs: int) -> int:
    """FLOPs of `rows` vectors through a matrix.

    >>> linear(2, 3, 5)
    60
    """
    return 2 * rows * inputs * outputs


class ClipCosts:
    """A CLIP or SigLIP tower that sees square tiles, and a two-layer projector (LLaVA-1.5, LLaVA-NeXT)."""

    def __init__(self, config: Any) -> None:
        self.vision, self.width = config.vision_config, config.get_text_config().hidden_size
        self.per_tile = (self.vision.image_size // self.vision.patch_size) ** 2
        self.has_cls = self.vision.model_type == "clip_vision_model"
        self.keeps_cls = self.has_cls and config.vision_feature_select_strategy == "full"
        layers = config.vision_feature_layer
        self.feature_width = self.vision.hidden_size * (1 if isinstance(layers, int) else len(layers))

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """The exact cost of these images."""
        return self.tiles(self._number(images))

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """What it costs to look at attention for a selector: fused kernels do not hand it out."""
        rows, width = self.per_tile + self.has_cls, int(self.vision.hidden_size)
        queries = ("cls_attention" in needs and self.has_cls) + rows * ("received_attention" in needs)
        return self._number(images) * linear(queries, width, rows)

    def guess(self, n_visual: int) -> Encoding:
        """The cost of images with so many visual tokens together.

        It is exact for LLaVA-1.5. On LLaVA-NeXT, where cropping hides the number of tiles, it is the fewest tiles
        that can make the count: up to two tiles too few of six for very long images.
        """
        return self.tiles(-(-n_visual // (self.per_tile + self.keeps_cls)) if n_visual else 0)

    def tiles(self, number: int) -> Encoding:
        """The cost of a number of tiles; every one goes through tower and projector, whatever is cropped later."""
        return Encoding(number * self._tower(), number * self._projector())

    def _number(self, images: Sequence[VisualTokens]) -> int:
        return sum(1 if t.tile is None else int(t.tile.max()) + 1 for t in images)

    def _tower(self) -> int:
        c = self.vision
        rows, width = self.per_tile + self.has_cls, int(c.hidden_size)
        layer = 4 * linear(rows, width, width) + 2 * linear(rows, width, rows)
        layer += 2 * linear(rows, width, c.intermediate_size)
        return linear(self.per_tile, 3 * c.patch_size**2, width) + int(c.num_hidden_layers) * layer

    def _projector(self) -> int:
        rows = self.per_tile + self.keeps_cls
        return linear(rows, self.feature_width, self.width) + linear(rows, self.width, self.width)


class QwenCosts:
    """Qwen2.5-VL's tower with windows, and its merger of 2 x 2 patches."""

    def __init__(self, config: Any) -> None:
        self.vision = config.vision_config
        self.unit = self.vision.spatial_merge_size**2
        # Visual tokens along one side of an attention window.
        self.window = self.vision.window_size // self.vision.patch_size // self.vision.spatial_merge_size

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """The exact cost of these images; those without a grid (several frames) are guessed."""
        parts = [self.guess(t.count) if t.grid is None else self.grid(*t.grid) for t in images]
        return Encoding(sum(p.tower for p in parts), sum(p.projector for p in parts))

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """What it costs to look at attention for a selector, within each whole image."""
        if not {"received_attention", "keys"} & set(needs):
            return 0
        patches = [t.count * self.unit for t in images]
        return sum(linear(n, self.vision.hidden_size, n) for n in patches)

    def guess(self, n_visual: int) -> Encoding:
        """The cost of one image with so many visual tokens, as if it were made of whole windows."""
        windows = n_visual / self.window**2
        return self._image(n_visual, round(windows * (self.unit * self.window**2) ** 2))

    def grid(self, rows: int, columns: int) -> Encoding:
        """The cost of an image of rows x columns visual tokens; windows at its edges are smaller."""
        squares = [
            sum(min(self.window, side - start) ** 2 for start in range(0, side, self.window))
            for side in (rows, columns)
        ]
        return self._image(rows * columns, self.unit**2 * squares[0] * squares[1])

    def _image(self, n_visual: int, window_pairs: int) -> Encoding:
        """`window_pairs`: query-key pairs of patches that share a window."""
        c, patches = self.vision, n_visual * self.unit
        width, full = c.hidden_size, len(c.fullatt_block_indexes)
        pairs = full * patches**2 + (c.depth - full) * window_pairs
        block = 4 * linear(patches, width, width) + 3 * linear(patches, width, c.intermediate_size)
        pixels = c.in_channels * c.temporal_patch_size * c.patch_size**2
        merged = self.unit * width
        return Encoding(
            linear(patches, pixels, width) + c.depth * block + 4 * pairs * width,
            linear(n_visual, merged, merged) + linear(n_visual, merged, c.out_hidden_size),
        )


VisionCosts = ClipCosts | QwenCosts
_FAMILIES: dict[str, type[VisionCosts]] = {
    "llava": ClipCosts,
    "llava_next": ClipCosts,
    "qwen2_5_vl": QwenCosts,
}


def vision_costs(config: Any) -> VisionCosts:
    """The costs of a model's image side.

    Raises:
        UnknownNameError: a model type whose costs are not known.
    """
    if config.model_type not in _FAMILIES:
        raise UnknownNameError("model type", str(config.model_type), _FAMILIES)
    return _FAMILIES[config.model_type](config)

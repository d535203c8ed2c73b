"""Input (`VisualTokens`) and output (`Selection`) of a selector."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

_ROWS = (
    *(
        "features",
        "preactivation",
        "tile",
        "cls_attention",
        "received_attention",
        "object_attention",
        "keys",
        "clip_image",
        "places",
    ),
)
"""Fields with one row per visual token, in addition to `projected`."""


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of one image, in the order in which the language model reads them.

    Only `projected` is always set. The other fields are set if a selector lists them in its `needs`; adapters capture
    nothing else.

    Attributes:
        projected: Z, the projector's output [N, D].
        features: X, the projector's input [N, Dv] (`needs: "features"`).
        project: the projector itself, [..., Dv] -> [..., D] (`needs: "projector"`).
        mlp: the projector's weights where it is a two-layer MLP, a `core.sensitivity.MLP` (`needs:
            "projector"`).
        preactivation: the projector's hidden layer before its activation [N, H], where an adapter captures it (`wants:
            "preactivation"`).
        grid: rows and columns of the token raster of a single-tile image, or None.
        tile: tile number of each token [N] (0 is the base tile, -1 a newline), or None for one tile.
        cls_attention: CLS-to-patch attention of the feature layer, mean over heads [N] (`needs:
            "cls_attention"`).
        received_attention: mean attention that each patch receives there [N] (`needs: "received_attention"`).
        object_attention: mean attention that each patch receives at the layer in the middle of the encoder that HiPrune
            names [N] (`needs: "object_attention"`).
        layer_attention: function (l) -> mean attention that each patch receives at encoder layer l, from 1 [N]
            (`needs: "layer_attention"`).
        attention_heads: number of heads over which `cls_attention` is averaged.
        keys: keys of the feature layer, mean over heads [N, Dk] (`needs: "keys"`).
        cls: the CLS token [Dv] (`needs: "cls"`), its key is `cls_key` [Dk]; of the base tile, if there are tiles.
        cls_key: key of the CLS token [Dk] (`needs: "cls"`).
        tiles: every tile at the encoder's output, with its own CLS token (`needs: "cls"`, tiled images only).
        hidden: output of encoder layer l -> [N, Dv], from 1 to the layer that goes to the projector (`needs:
            "hidden"`).
        replay: function (l, hidden[..., N, Dv]) -> X [..., N, Dv]: the encoder from layer l to the projector's input
            (`needs: "replay"`).
        text: input embeddings of the question's tokens [L, D] (`needs: "text"`).
        text_words: word number of each row of `text` [L] (sub-tokens of a word share one), or None (`needs:
            "text"`).
        question_words: input embeddings of the question's words, each tokenised by itself, one row per sub-token
            [m, D]: `keywords` without filler words and `all` of them; empty where the adapter has no tokenizer
            (`needs: "text"`).
        family: the model's family, for methods whose release processes questions differently by model (`needs:
            "text"`).
        places: position of each token in the image's sequence [N]; None for all tokens in order.
        clip_image: CLIP embedding of each patch, after its visual projection [N, c] (`needs: "clip"`).
        clip_text: CLIP embeddings of the question's segments [S, c] (`needs: "clip"`).
        deepstack: rows that the first decoder layers add to their hidden states [levels, N, D] (Qwen3-VL), or None.
        pixels_encoder: function (scale: tuple[int, int]) -> Z of the image resized to that token grid
            (`needs: "resize"`).
    """

    projected: Tensor
    features: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None
    mlp: object | None = None
    preactivation: Tensor | None = None
    grid: tuple[int, int] | None = None
    tile: Tensor | None = None
    cls_attention: Tensor | None = None
    received_attention: Tensor | None = None
    object_attention: Tensor | None = None
    layer_attention: Callable[[int], Tensor] | None = None
    attention_heads: int = 1
    keys: Tensor | None = None
    cls: Tensor | None = None
    cls_key: Tensor | None = None
    tiles: "Tiles | None" = None
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    replay: Callable[[int, Tensor], Tensor] | None = None
    text: Tensor | None = None
    text_words: Tensor | None = None
    question_words: Mapping[str, Tensor] = field(default_factory=dict)
    family: str = ""
    places: Tensor | None = None
    clip_image: Tensor | None = None
    clip_text: Tensor | None = None
    deepstack: Tensor | None = None
    pixels_encoder: Callable[[tuple[int, int]], Tensor] | None = None

    def __post_init__(self) -> None:
        """Check the shapes of the fields."""
        if self.projected.ndim != 2:
            raise InvalidValueError(f"projected must be [N, D], got shape {tuple(self.projected.shape)}")
        for name in _ROWS:
            value = getattr(self, name)
            if value is not None and len(value) != len(self.projected):
                raise InvalidValueError(
                    f"{name} has {len(value)} rows, but there are {len(self.projected)} visual tokens"
                )

    @property
    def count(self) -> int:
        """N, the number of visual tokens of the image."""
        return len(self.projected)

    def has(self, need: str) -> bool:
        """Whether the field for a selector's need is set."""
        if need == "projector":
            return self.project is not None or self.mlp is not None
        if need == "resize":
            return self.pixels_encoder is not None
        if need == "hidden":
            return bool(self.hidden)
        if need == "clip":
            return self.clip_image is not None and self.clip_text is not None
        return getattr(self, need) is not None

    def subset(self, index: Tensor) -> "VisualTokens":
        """The tokens at `index` [n] as a separate image, without fields that refer to the whole image."""
        rows: dict[str, Any] = {
            name: None if value is None else value[index]
            for name, value in ((n, getattr(self, n)) for n in _ROWS)
        }
        rows["places"] = index if self.places is None else rows["places"]
        return replace(
            self,
            projected=self.projected[index],
            hidden={layer: value[index] for layer, value in self.hidden.items()},
            grid=None,
            tiles=None,
            replay=None,
            layer_attention=None,
            pixels_encoder=None,
            **rows,
        )

    @property
    def device(self) -> torch.device:
        """Device of all fields."""
        return self.projected.device


@dataclass(frozen=True)
class Tiles:
    """The tiles of one image before cropping removes padding and inserts newlines.

    Attributes:
        images: each tile as a separate image with all of its patches, the base tile first.
        source: tile * patches per tile + patch number of every visual token of the image [N]; -1 for newlines.
        grid: rows and columns of the grid of tiles after the base tile.
    """

    images: tuple[VisualTokens, ...]
    source: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """The visual tokens to keep.

    Attributes:
        indices: kept tokens, ascending and unique [K] (int64).
        scores: score of every token [N], for figures and analysis, or None.
        merged: features that replace those of the kept tokens, in the order of `indices` [K, D], or None if the
            kept tokens keep their projected features.
    """

    indices: Tensor
    scores: Tensor | None = None
    merged: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes; order and uniqueness are checked by the contract suite, since they would synchronise a GPU."""
        if self.indices.ndim != 1 or self.indices.dtype != torch.int64:
            raise InvalidValueError(
                f"indices must be int64 [K], got {self.indices.dtype} {tuple(self.indices.shape)}"
            )
        if self.merged is not None and len(self.merged) != len(self.indices):
            raise InvalidValueError(f"merged has {len(self.merged)} rows for {len(self.indices)} kept tokens")

    @property
    def kept_tokens(self) -> int:
        """K, the number of visual tokens that enter the language model."""
        return len(self.indices)

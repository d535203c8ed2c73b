"""HiPrune: anchors of a middle encoder layer, their neighbours, and registers of a deep layer, all by attention."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.fusion import top_k
from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.cls_attention import encoder_attention
from zoo_exp.selectors.options import at_least, share


@dataclass(frozen=True)
class HiPrune(Selector):
    """Keeps anchors of a middle encoder layer, their four neighbours, and registers of a deep layer.

    Attention is the mean over heads and queries of what a patch receives. The n = round(K alpha / 5) tokens with the
    most attention at the object layer are anchors. They are kept with their left, right, upper and lower neighbours in
    the grid (clamped to the first and last token, and wrapping at the ends of rows, as released). The rest of the
    budget are the tokens with the most attention at the deep layer. Unlike in the release, the count is exact: the
    release counts some tokens twice on Qwen2.5-VL, and fails if anchors and neighbours exceed K.

    Attributes:
        alpha: part of the budget for anchors and neighbours, 0 to 1.
        object_layer: encoder layer of the anchors, from 1; None for that of the release (9 of 24, and 16 of 32 on
            Qwen2.5-VL), scaled to the depth of the encoder.
    """

    name: ClassVar[str] = "hiprune"
    paper: ClassVar[str] = "HiPrune (arXiv 2508.00553), as released (Danielement321/HiPrune 6e83a12)"
    equivariant: ClassVar[bool] = False
    NEEDS: ClassVar[frozenset[str]] = frozenset({"received_attention", "object_attention"})

    alpha: float = 0.1
    object_layer: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        share(self, "alpha")
        if self.object_layer is not None:
            at_least(self, "object_layer", 1)

    @property
    def needs(self) -> frozenset[str]:
        """Attention of two layers."""
        middle = "object_attention" if self.object_layer is None else "layer_attention"
        return frozenset({"received_attention", middle})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention that each token receives at the deep layer [N]."""
        return encoder_attention(tokens, "received")

    def select(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None = None,
    ) -> Selection:
        """As in the base class; attention of a custom object layer is computed first."""
        if self.object_layer is not None and tokens.layer_attention is not None:
            tokens = replace(tokens, object_attention=tokens.layer_attention(self.object_layer))
        return super().select(tokens, budget, generator, scores)

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Anchors and neighbours, then registers."""
        if scores is None or tokens.object_attention is None:
            raise InvalidValueError("selector hiprune needs 'received_attention' and 'object_attention'")
        anchors = top_k(tokens.object_attention.float(), round(k * self.alpha / 5))
        first = with_neighbours(anchors, tokens)[:k]
        deep = scores.float().clone()
        deep[first] = float("-inf")
        return torch.cat([first, top_k(deep, k - len(first))])

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int | None:
        """0 with the default layer, whose attention the vision encoder provides; otherwise counted at runtime."""
        return 0 if self.object_layer is None else None


def with_neighbours(anchors: Tensor, tokens: VisualTokens) -> Tensor:
    """Anchors [n], then their left, right, upper and lower neighbours, each once.

    Indices count the tokens of the anchor's own tile and are clamped to the first and last one.
    """
    tile = torch.zeros(tokens.count, dtype=torch.int64) if tokens.tile is None else tokens.tile.cpu()
    found = anchors.tolist()
    by_shift: list[list[int]] = [[], [], [], []]
    for anchor in found:
        members = (tile == tile[anchor]).nonzero().flatten()
        place = int((members == anchor).nonzero())
        width = raster_width(tokens, members)
        for shift, neighbours in zip((-1, 1, -width, width), by_shift, strict=True):
            neighbours.append(int(members[min(max(place + shift, 0), len(members) - 1)]))
    once = dict.fromkeys([*found, *(place for neighbours in by_shift for place in neighbours)])
    return sent(list(once), anchors.device)


def raster_width(tokens: VisualTokens, members: Tensor) -> int:
    """Number of tokens per row of the grid formed by the members [n] of one tile.

    Taken from the image's grid, or, for a tile, the length of its first run in the image's sequence, in which rows of
    adjacent tiles alternate. The base tile is a single run and square.
    """
    n = len(members)
    if tokens.grid is not None and tokens.grid[0] * tokens.grid[1] == n:
        return tokens.grid[1]
    places = members if tokens.places is None else tokens.places.cpu()[members]
    gaps = (places[1:] - places[:-1] != 1).nonzero().flatten()
    return int(gaps[0]) + 1 if len(gaps) else max(1, math.isqrt(n))

"""VisionZip: keeps the tokens that the vision encoder attends to, and merges the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.merging import Merged, dominant_and_contextual
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.allocation import plan
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.cls_attention import ATTENTIONS, encoder_attention
from zoo_exp.selectors.options import one_of, share
from zoo_exp.selectors.visionzip_tiles import released_order, slots, tile_budgets


@dataclass(frozen=True)
class VisionZip(Selector):
    """Keeps the patches with the most CLS attention, and evenly spaced ones into which all others are merged.

    Attributes:
        attention: `cls` for the CLS token's, `received` for the mean over all patches (encoders without CLS).
        contextual_share: share of merged tokens in the budget; 10/64 gives the published 54+10, 108+20 and 162+30.
        variant: `paper`: only patches, in grid order, a merged token at the position of its target.
            `official_code`: the first row that enters the language model is the CLS token (one dominant patch
            fewer), then dominant patches, then merged tokens. CLS has no position in the grid; in `indices` it is
            represented by the first patch that is not kept. On tiled images every tile has a CLS token and is split
            as a whole, before cropping; the base tile comes first, then dominant patches of the others in raster
            order, their CLS tokens, their merged tokens, and no newlines (`visionzip_tiles`).
    """

    name: ClassVar[str] = "visionzip"
    paper: ClassVar[str] = (
        "VisionZip (CVPR 2025, arXiv 2412.04467); with variant=official_code "
        "as released (dvlab-research/VisionZip 3151f6d)"
    )
    equivariant: ClassVar[bool] = False
    NEEDS: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys", "features", "projector"})

    attention: str = "cls"
    contextual_share: float = 10 / 64
    variant: str = "paper"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "attention", ATTENTIONS)
        one_of(self, "variant", ("paper", "official_code"))
        share(self, "contextual_share", below_one=True)

    @property
    def needs(self) -> frozenset[str]:
        """Attention for ranking, keys for similarity, features and projector for merging."""
        needs = {f"{self.attention}_attention", "keys", "features", "projector"}
        return frozenset(needs | {"cls"} if self.variant == "official_code" else needs)

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention per token [N]."""
        return encoder_attention(tokens, self.attention)

    def select(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None = None,
    ) -> Selection:
        """As in the base class, except that `official_code` splits whole tiles before cropping.

        Raises:
            InvalidValueError: as in the base class, or newlines were requested in the released layout.
        """
        tiles = tokens.tiles
        if self.variant != "official_code" or tiles is None or budget is None:
            return super().select(tokens, budget, generator, scores)
        if self.newline == "keep":
            raise InvalidValueError(
                "newline keep of selector visionzip: the released layout of tiled images has no newline tokens; "
                "use newline=drop, or variant=paper"
            )
        wanted, patches, total = Budget.parse(budget), int((tiles.source >= 0).sum()), 0
        if wanted.per != "tile":
            total = plan(tokens, wanted, "drop").total
        if wanted.count == 0 or total in (patches, tokens.count):  # no or all tokens: no tile is split
            return super().select(tokens, budget, generator, scores)
        self.check(tokens)
        scores = self.score(tokens, generator) if scores is None else scores
        splits: list[Merged | None] = []
        rows: list[Tensor] = []
        for tile, k in zip(tiles.images, tile_budgets(tokens, tiles, wanted, total), strict=True):
            split, mine = (
                self._split(tile, self.score(tile, generator), k) if k else (None, tokens.projected[:0])
            )
            splits.append(split)
            rows.append(mine)
        order = released_order(splits, tiles)
        return Selection(slots(tokens, tiles, splits), scores, torch.cat(rows)[order])

    def pick(
        self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator
    ) -> Selection:
        """Dominant tokens unchanged, contextual ones projected after merging."""
        split, rows = self._split(tokens, scores, k)
        patches = torch.cat([split.dominant, split.targets])
        if self.variant == "paper":
            indices, order = patches.sort()
            return Selection(indices, scores, rows[order])
        free = torch.ones(tokens.count, dtype=torch.bool, device=tokens.device)
        free[patches] = False
        return Selection(torch.cat([free.nonzero()[0], patches]).sort().values, scores, rows)

    def _split(self, tokens: VisualTokens, scores: Tensor | None, k: int) -> tuple[Merged, Tensor]:
        """Split of one grid, and rows that enter the language model [k, D]: CLS (if released), dominant, contextual."""
        project = tokens.project or tokens.mlp
        if scores is None or tokens.keys is None or tokens.features is None or not callable(project):
            raise InvalidValueError("selector visionzip needs attention, 'keys', 'features' and 'projector'")
        contextual = int(k * self.contextual_share + 1e-9)
        first = 1 if self.variant == "official_code" else 0
        split = dominant_and_contextual(
            scores, tokens.keys, tokens.features, k - contextual - first, contextual
        )
        dtype = tokens.projected.dtype
        rows = [tokens.projected[split.dominant], project(split.contextual).to(dtype)]
        if first:
            if tokens.cls is None:
                raise InvalidValueError("selector visionzip with variant=official_code needs 'cls'")
            rows.insert(0, project(tokens.cls[None].to(tokens.features.dtype)).to(dtype))
        return split, torch.cat(rows)

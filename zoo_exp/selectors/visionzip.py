"""VisionZip: keep what the tower attends to, merge the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.errors import InvalidValueError
from zoo_exp.core.merging import dominant_and_contextual
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.selectors.base import Selector, one_of
from zoo_exp.selectors.cls_attention import ATTENTIONS, tower_attention


@dataclass(frozen=True)
class VisionZip(Selector):
    """Patches with the most CLS attention, and evenly spread ones that take in all others.

    Attributes:
        attention: `cls` for the CLS token's, `received` for the mean over all patches (towers without CLS).
        contextual_share: part of the budget that is merged tokens; 10/64 gives the published 54+10, 108+20
            and 162+30.
        variant: `paper`: only patches, in raster order, a merged token at the place of its target.
            `official_code`: the first row that enters the language model is the CLS token (one dominant patch
            fewer), then dominant patches, then merged tokens. CLS has no place in the raster; in `indices` it
            stands for the first patch that is not kept.
    """

    name: ClassVar[str] = "visionzip"
    paper: ClassVar[str] = "VisionZip (CVPR 2025, arXiv 2412.04467)"
    equivariant: ClassVar[bool] = False

    attention: str = "cls"
    contextual_share: float = 10 / 64
    variant: str = "paper"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "attention", ATTENTIONS)
        one_of(self, "variant", ("paper", "official_code"))
        share = self.contextual_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise InvalidValueError(
                f"contextual_share {share!r} of selector visionzip: must lie between 0 and below 1"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Attention ranks, keys compare, features are merged and projected."""
        needs = {f"{self.attention}_attention", "keys", "features", "projector"}
        return frozenset(needs | {"cls"} if self.variant == "official_code" else needs)

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention per token [N]."""
        return tower_attention(tokens, self.attention)

    def pick(
        self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator
    ) -> Selection:
        """Dominant tokens as they are, contextual ones projected after merging."""
        project = tokens.project or tokens.mlp
        if scores is None or tokens.keys is None or tokens.features is None or not callable(project):
            raise InvalidValueError("selector visionzip needs attention, 'keys', 'features' and 'projector'")
        contextual = int(k * self.contextual_share + 1e-9)
        first = 1 if self.variant == "official_code" else 0
        split = dominant_and_contextual(
            scores, tokens.keys, tokens.features, k - contextual - first, contextual
        )
        patches = torch.cat([split.dominant, split.targets])
        merged = project(split.contextual).to(tokens.projected.dtype)
        rows = torch.cat([tokens.projected[split.dominant], merged])
        if not first or tokens.cls is None:
            indices, order = patches.sort()
            return Selection(indices, scores, rows[order])
        free = torch.ones(tokens.count, dtype=torch.bool, device=tokens.device)
        free[patches] = False
        indices = torch.cat([free.nonzero()[0], patches]).sort().values
        cls = project(tokens.cls[None].to(tokens.features.dtype)).to(rows.dtype)
        return Selection(indices, scores, torch.cat([cls, rows]))

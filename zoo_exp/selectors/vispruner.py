"""VisPruner: keeps important tokens and diverse tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.diversity import exact_cosine
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.cls_attention import ATTENTIONS, encoder_attention
from zoo_exp.selectors.options import one_of, share

DROPPED_PER_ROUND = 8


@dataclass(frozen=True)
class VisPruner(Selector):
    """Keeps tokens by attention, and fills the rest of the budget by removing near-duplicates of other tokens.

    Similarities are computed in float64. If two nearly equal scores are swapped, other tokens are compared in all
    later rounds, so the half precision of the release keeps different tokens in the diverse part. Unlike the release,
    which fails or keeps fewer tokens for some counts, every count from 1 to N is supported.

    Attributes:
        attention: `cls` for the CLS token's, `received` for the mean over all patches (encoders without CLS).
        important_share: r, the share of the budget selected by attention: int(K r) tokens.
    """

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = (
        "VisPruner (ICCV 2025, arXiv 2412.01818), as released (Theia-4869/VisPruner aefa01a) in float64"
    )
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "cls_attention"})
    algorithm: ClassVar[int] = 2  # 1: the other tokens of a round in ascending order, in float32

    attention: str = "cls"
    important_share: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "attention", ATTENTIONS)
        share(self, "important_share")

    @property
    def needs(self) -> frozenset[str]:
        """Attention for ranking, and the vision encoder's features for similarity."""
        return frozenset({"features", f"{self.attention}_attention"})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention per token [N]."""
        return encoder_attention(tokens, self.attention)

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Important tokens, and the diverse ones of the others."""
        if scores is None or tokens.features is None:
            raise InvalidValueError("selector vispruner needs attention and 'features'")
        order = scores.sort(descending=True, stable=True).indices
        important = int(k * self.important_share)
        return torch.cat([order[:important], thin_out(tokens.features, order[important:], k - important)])


def thin_out(features: Tensor, residual: Tensor, k: int) -> Tensor:
    """Drop the tokens that are most similar to another one, until k of the residual [R] are left.

    In each round, tokens at even positions are scored by their largest cosine to a token at an odd position, and the
    highest are removed (8 at most). The remaining even ones are kept in descending order of that score, followed by
    the odd ones in their order; this order determines the comparisons of the next round
    (`llava/model/llava_arch.py` of the release).
    """
    if not k:
        return residual[:0]
    similarity = exact_cosine(features, features)
    while len(residual) > k:
        even, odd = residual[::2], residual[1::2]
        rating = similarity[even][:, odd].amax(dim=1)
        dropped = min(DROPPED_PER_ROUND, len(residual) - k, len(even))
        descending = rating.sort(descending=True, stable=True).indices
        residual = torch.cat([even[descending[dropped:]], odd])
    return residual

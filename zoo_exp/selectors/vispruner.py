"""VisPruner: important tokens, then others that do not repeat each other."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.diversity import cosine
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector, one_of
from zoo_exp.selectors.cls_attention import ATTENTIONS, tower_attention

DROPPED_PER_ROUND = 8


@dataclass(frozen=True)
class VisPruner(Selector):
    """Half of the budget by attention, half by removing near-duplicates among the rest.

    Attributes:
        attention: `cls` for the CLS token's, `received` for the mean over all patches (towers without CLS).
        important_share: r, the part of the budget that attention decides.
    """

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = "VisPruner (ICCV 2025, arXiv 2412.01818)"

    attention: str = "cls"
    important_share: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "attention", ATTENTIONS)
        share = self.important_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InvalidValueError(
                f"important_share {share!r} of selector vispruner: must lie between 0 and 1"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Attention ranks, the tower's features compare."""
        return frozenset({"features", f"{self.attention}_attention"})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention per token [N]."""
        return tower_attention(tokens, self.attention)

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Important tokens and what is left of the others."""
        if scores is None or tokens.features is None:
            raise InvalidValueError("selector vispruner needs attention and 'features'")
        order = scores.sort(descending=True, stable=True).indices
        important = int(k * self.important_share)
        return torch.cat([order[:important], thin_out(tokens.features, order[important:], k - important)])


def thin_out(features: Tensor, residual: Tensor, k: int) -> Tensor:
    """Drop tokens that another one resembles most, until k of the residual [R] are left.

    Per round, the tokens at even places are rated by their largest cosine to one at an odd place, and the
    highest go (8 at most). The survivors come back in ascending order of that rating, so the order of a round
    decides who meets whom in the next.
    """
    if not k:
        return residual[:0]
    similarity = cosine(features, features)
    while len(residual) > k:
        even, odd = residual[::2], residual[1::2]
        rating = similarity[even][:, odd].amax(dim=1)
        dropped = min(DROPPED_PER_ROUND, len(residual) - k, len(even))
        ascending = rating.sort(stable=True).indices
        residual = torch.cat([even[ascending[: len(even) - dropped]], odd])
    return residual

"""SCOPE: keeps salient tokens that cover the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.coverage import COMBINATIONS, greedy_coverage
from zoo_exp.core.diversity import exact_cosine
from zoo_exp.core.flops import linear
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.cls_attention import encoder_attention
from zoo_exp.selectors.options import exponent, one_of


@dataclass(frozen=True)
class Scope(Selector):
    """Maximises coverage of the patches of the image, weighted by CLS attention, greedily.

    The gain of a token is its increase of the sum, over all patches, of the largest cosine to a kept token (negative
    cosines count as 0). It is multiplied by attention ** alpha, or added to it.

    Attributes:
        alpha: exponent of the attention, 0 or more; 0 uses coverage only.
        combine: `multiply`, the released default, or `add`. The attention of `add` is the sum over heads.
    """

    name: ClassVar[str] = "scope"
    paper: ClassVar[str] = "SCOPE (arXiv 2510.24214), as released (kinredon/SCOPE 6bf7306)"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "cls_attention"})

    alpha: float = 1.0
    combine: str = "multiply"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "combine", COMBINATIONS)
        exponent(self, "alpha")

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """CLS attention per token, summed over heads [N]."""
        return encoder_attention(tokens, "cls") * tokens.attention_heads

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks on the cosines of the vision encoder's features."""
        if scores is None or tokens.features is None:
            raise InvalidValueError("selector scope needs 'features' and 'cls_attention'")
        cover = exact_cosine(tokens.features, tokens.features).clamp_min_(0)
        return greedy_coverage(cover, k, scores.double() ** self.alpha, combine=self.combine)

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """Cosines of all pairs of competing tokens."""
        width = 0 if tokens.features is None else tokens.features.shape[1]
        return sum(linear(n, width, n) for n in self.competing(tokens, budget))

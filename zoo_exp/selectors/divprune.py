"""DivPrune: keep the most dissimilar tokens."""

from dataclasses import dataclass
from typing import ClassVar

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.base import GreedySelector


@dataclass(frozen=True)
class DivPrune(GreedySelector):
    """Maximises the minimum cosine distance between kept tokens, greedily, on the projected features.

    Unlike the release (vbdi/divprune), a token is never picked twice, which happens there with duplicates and in half
    precision, and the kept tokens are in ascending order.
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "DivPrune (CVPR 2025, arXiv 2503.02175), as released (vbdi/divprune 799e2d9)"

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """Cosines of pairs."""
        return self.pair_flops(tokens, budget)

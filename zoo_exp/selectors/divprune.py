"""DivPrune: keep the tokens that are least alike."""

from dataclasses import dataclass
from typing import ClassVar

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.base import GreedySelector


@dataclass(frozen=True)
class DivPrune(GreedySelector):
    """Greedy max-min cosine diversity on the projected features.

    Unlike the release, a token is never picked twice (it happens there with duplicates and in half precision;
    spec: algorithms 2), and the kept tokens are in ascending order, which the paper's own numbers are not.
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "DivPrune (CVPR 2025, arXiv 2503.02175), as released (vbdi/divprune 799e2d9)"

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """Cosines of pairs."""
        return self.pair_flops(tokens, budget)

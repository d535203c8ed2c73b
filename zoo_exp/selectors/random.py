"""The random baseline."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.allocation import NEWLINE
from zoo_exp.selectors.base import ScoreSelector


@dataclass(frozen=True)
class Random(ScoreSelector):
    """Keeps tokens drawn uniformly at random."""

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "sanity baseline"
    equivariant: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        """Always."""
        return True

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """One draw from U(0, 1) per token [N]; a larger budget keeps a superset.

        Newlines draw last, so that the other tokens' draws do not depend on how many there are.
        """
        draws = sent(torch.rand(tokens.count, generator=generator, device=generator.device), tokens.device)
        if tokens.tile is None:
            return draws
        scores = torch.empty_like(draws)
        scores[(tokens.tile == NEWLINE).sort(stable=True).indices] = draws
        return scores

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product."""
        return 0

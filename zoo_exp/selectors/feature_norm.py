"""Selection by the norm of the features, a baseline without cost."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.base import ScoreSelector
from zoo_exp.selectors.options import one_of


@dataclass(frozen=True)
class FeatureNorm(ScoreSelector):
    """Keeps the tokens with the largest feature norm; a control for scores that only follow magnitude.

    Attributes:
        of: `projected` (after the projector) or `features` (before it).
    """

    name: ClassVar[str] = "feature_norm"
    paper: ClassVar[str] = "sanity baseline"

    of: str = "projected"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "of", ("projected", "features"))

    @property
    def needs(self) -> frozenset[str]:
        """The projector's input if its norm is used."""
        return frozenset({"features"}) if self.of == "features" else frozenset()

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Euclidean norm of every token [N]."""
        rows = tokens.features if self.of == "features" and tokens.features is not None else tokens.projected
        length: Tensor = rows.float().norm(dim=-1)
        return length

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product."""
        return 0

"""Selection by attention in the vision encoder."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import ScoreSelector
from zoo_exp.selectors.options import one_of

ATTENTIONS = ("cls", "received")


@dataclass(frozen=True)
class ClsAttention(ScoreSelector):
    """Keeps the patches with the most attention in the feature layer of the vision encoder.

    Attributes:
        attention: `cls` for the CLS token's, `received` for the mean over all patches (encoders without CLS).
    """

    name: ClassVar[str] = "cls_attention"
    paper: ClassVar[str] = "FasterVLM (arXiv 2412.01818v1)"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"cls_attention"})

    attention: str = "cls"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "attention", ATTENTIONS)

    @property
    def needs(self) -> frozenset[str]:
        """The attention of the chosen kind."""
        return frozenset({f"{self.attention}_attention"})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Attention per token [N]."""
        return encoder_attention(tokens, self.attention)

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product: attention is captured from the vision encoder."""
        return 0


def encoder_attention(tokens: VisualTokens, kind: str) -> Tensor:
    """Attention of kind `cls` or `received` that each token gets [N], in float32."""
    value = tokens.cls_attention if kind == "cls" else tokens.received_attention
    if value is None:
        raise InvalidValueError(f"these visual tokens have no {kind} attention")
    return value.float()

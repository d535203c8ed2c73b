"""Text-to-vision attention on input embeddings, before the language model."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.allocation import NEWLINE
from zoo_exp.selectors.base import ScoreSelector


@dataclass(frozen=True)
class TextAttention(ScoreSelector):
    """Keeps the tokens that the input embeddings of the question attend to.

    A substitute for text-to-vision attention (supplement E of ZOO-Prune) without running the language model:
    softmax over the visual tokens of W Z^T / sqrt(D), mean over the tokens of the question. Layer selectors use
    attention inside the language model.
    """

    name: ClassVar[str] = "text_attention"
    paper: ClassVar[str] = "text-to-vision baseline of ZOO-Prune's supplement E, on input embeddings"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"text"})

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Mean attention per token [N]; newlines are excluded from the softmax and get 0."""
        if tokens.text is None or not len(tokens.text):
            raise InvalidValueError("selector text_attention needs a question: its text has no tokens")
        logits = tokens.text.float() @ tokens.projected.float().T / math.sqrt(tokens.projected.shape[1])
        if tokens.tile is not None:
            logits = logits.masked_fill(tokens.tile == NEWLINE, float("-inf"))
        return logits.softmax(dim=1).mean(dim=0)

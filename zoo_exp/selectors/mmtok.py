"""MMTok: tokens that cover the question and the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.coverage import greedy_coverage
from zoo_exp.core.diversity import cosine
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector, positive


@dataclass(frozen=True)
class MMTok(Selector):
    """Greedy maximum coverage of the question's words and of the image's own patches.

    Unverified (spec: algorithms_beyond): the pooling of a word's sub-tokens is taken to be their mean. Stop
        words are
    removed only as far as the adapter leaves them out of `text`.

    Attributes:
        text_temperature: t_tv, of the softmax of words over visual tokens.
        image_temperature: t_vv, of the softmax of patches over visual tokens.
        image_weight: alpha, how much covering the image counts against covering the question.
    """

    name: ClassVar[str] = "mmtok"
    paper: ClassVar[str] = "MMTok (ICLR 2026, arXiv 2508.18264)"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "text"})

    text_temperature: float = 0.02
    image_temperature: float = 0.2
    image_weight: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for option in ("text_temperature", "image_temperature", "image_weight"):
            positive(self, option)

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks on the stacked coverage matrices [m + N, N]."""
        if tokens.features is None or tokens.text is None:
            raise InvalidValueError("selector mmtok needs 'features' and 'text'")
        words = pool_words(tokens.text.float(), tokens.text_words)
        text = (cosine(words, tokens.projected) / self.text_temperature).softmax(dim=1)
        image = (cosine(tokens.features, tokens.features) / self.image_temperature).softmax(dim=1)
        scale = self.image_weight / tokens.count
        return greedy_coverage(torch.cat([text / max(1, len(words)), scale * image]), k)


def pool_words(text: Tensor, words: Tensor | None) -> Tensor:
    """Mean embedding of each word [m, D] from sub-tokens [L, D] and word numbers [L] (None: one each)."""
    if words is None or not len(text):
        return text
    _, word = words.unique(return_inverse=True)
    member = (word[None] == torch.arange(int(word.max()) + 1, device=word.device)[:, None]).float()
    pooled: Tensor = member @ text / member.sum(dim=1, keepdim=True)
    return pooled

"""MMTok: keeps tokens that cover the question and the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.coverage import greedy_coverage
from zoo_exp.core.diversity import exact_cosine
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.options import one_of, positive

RELEASED = {"qwen2_5_vl": ("all", 0.01)}
"""Words and text temperature of the release by family; other families use those of LLaVA."""
RELEASED_LLAVA = ("keywords", 0.02)


@dataclass(frozen=True)
class MMTok(Selector):
    """Maximises coverage of the words of the question and of the patches of the image, greedily.

    Every sub-token of a word is a separate row. If the adapter has no tokenizer, all tokens of the question in the
    prompt are used instead of words.

    Attributes:
        text_temperature: t_tv, of the softmax of words over visual tokens; None for the release's 0.02, on
            Qwen2.5-VL 0.01.
        image_temperature: t_vv, of the softmax of patches over visual tokens.
        image_weight: alpha, weight of covering the image relative to covering the question.
        words: `keywords` removes filler words and prompt sentences, `all` uses "Question: " and every word; None as
            in the release: `keywords`, and `all` on Qwen2.5-VL.
    """

    name: ClassVar[str] = "mmtok"
    paper: ClassVar[str] = "MMTok (ICLR 2026, arXiv 2508.18264), as released (Ironieser/MMTok d1522cd)"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "text"})

    text_temperature: float | None = None
    image_temperature: float = 0.2
    image_weight: float = 0.5
    words: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "words", (None, "keywords", "all"))
        if self.text_temperature is not None:
            positive(self, "text_temperature")
        for option in ("image_temperature", "image_weight"):
            positive(self, option)

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks on the stacked coverage matrices [m + N, N]."""
        if tokens.features is None or tokens.text is None:
            raise InvalidValueError("selector mmtok needs 'features' and 'text'")
        words, temperature = RELEASED.get(tokens.family, RELEASED_LLAVA)
        text = tokens.question_words.get(self.words or words, tokens.text)
        temperature = temperature if self.text_temperature is None else self.text_temperature
        return greedy_coverage(self.cover(tokens.projected, tokens.features, text, temperature), k)

    def cover(self, projected: Tensor, features: Tensor, text: Tensor, temperature: float) -> Tensor:
        """Coverage of each text row and each patch by each token [m + N, N], in float64.

        Args:
            projected: Z [N, D].
            features: X [N, Dv].
            text: input embeddings of the words [m, D].
            temperature: of the text's softmax.
        """
        by_text = (exact_cosine(text, projected) / temperature).softmax(dim=1) / max(1, len(text))
        by_image = (exact_cosine(features, features) / self.image_temperature).softmax(dim=1) / len(features)
        return torch.cat([by_text, self.image_weight * by_image])


def padding_patches(width: int, height: int, side: int) -> list[int]:
    """Patches of a side x side grid that lie entirely in the padding of an image that was padded to a square.

    The release never picks them (pass them to `greedy_coverage` as `excluded`). The processors of the supported
    checkpoints crop instead of padding, so their images have none.

    Args:
        width: of the original image in pixels.
        height: of the original image in pixels.
        side: patches per side of the grid.
    """
    longest = max(width, height)
    rows, columns = _padded(height, longest, side), _padded(width, longest, side)
    return [r * side + c for r in range(side) for c in range(side) if r in rows or c in columns]


def _padded(length: int, longest: int, side: int) -> set[int]:
    """Rows or columns of patches, of `side`, entirely before or after the centred image."""
    first, last = longest - length, longest + length  # in half pixels
    return {i for i in range(side) if 2 * (i + 1) * longest <= first * side or 2 * i * longest >= last * side}

"""CDPruner: a determinantal point process conditioned on the question."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.diversity import exact_cosine
from zoo_exp.core.dpp import conditional_dpp
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.allocation import NEWLINE
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.options import one_of


@dataclass(frozen=True)
class CDPruner(Selector):
    """Keeps relevant and diverse tokens (greedy MAP inference of a conditional DPP).

    If K exceeds the rank of the kernel, the release repeats picks and keeps fewer tokens; here the remaining picks are
    the most relevant tokens.

    Attributes:
        relevance: `llm_embeddings`, a substitute for models without the full CLIP, which differs from the released
            method: mean cosine of the question's input embeddings and the projected features; `clip`, as released:
            *minus* the cosine of CLIP's patch and text embeddings, mean over segments of the question (load the model
            with `clip=PATH`).
    """

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = (
        "CDPruner (NeurIPS 2025, arXiv 2506.10967); with relevance=clip as released (Theia-4869/CDPruner 9541616)"
    )
    always_named: ClassVar[tuple[str, ...]] = ("relevance",)
    NEEDS: ClassVar[frozenset[str]] = frozenset({"text"})
    algorithm: ClassVar[int] = 2  # 1: newlines took part in the scaling, in float32

    relevance: str = "llm_embeddings"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        one_of(self, "relevance", ("llm_embeddings", "clip"))

    @property
    def needs(self) -> frozenset[str]:
        """The question's embeddings for the chosen relevance."""
        return frozenset({"clip" if self.relevance == "clip" else "text"})

    def check(self, tokens: VisualTokens) -> None:
        """As for every selector, with a word on where CLIP comes from."""
        if self.relevance == "clip" and not tokens.has("clip"):
            raise InvalidValueError(
                "selector cdpruner with relevance=clip needs 'clip', the full CLIP that the vision encoder comes from: "
                "load_model(..., clip=PATH), model.clip=PATH in a configuration, or relevance=llm_embeddings"
            )
        super().check(tokens)

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """Relevance q [N], scaled over the patches of the image: (q - min + 1e-6) / (max - min), or ones if equal.

        Newlines have relevance 0 and are excluded from the scaling: the release inserts them after the selection.
        """
        if self.relevance == "clip" and tokens.clip_image is not None and tokens.clip_text is not None:
            q = -exact_cosine(tokens.clip_text, tokens.clip_image).mean(dim=0)
        elif tokens.text is not None and len(tokens.text):
            q = exact_cosine(tokens.text, tokens.projected).mean(dim=0)
        else:
            raise InvalidValueError("selector cdpruner needs a question: its text has no tokens")
        patches = torch.ones_like(q, dtype=torch.bool) if tokens.tile is None else tokens.tile != NEWLINE
        infinite = torch.full_like(q, float("inf"))
        low, high = torch.where(patches, q, infinite).min(), torch.where(patches, q, -infinite).max()
        scaled = torch.where(high > low, (q - low + 1e-6) / (high - low), torch.ones_like(q))
        return torch.where(patches, scaled, torch.zeros_like(q)).float()

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks on the projected features."""
        if scores is None:
            raise InvalidValueError("selector cdpruner needs relevance scores, but there are none")
        return conditional_dpp(tokens.projected, scores, k)

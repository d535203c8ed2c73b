"""DART: keeps the tokens that are least similar to a few pivot tokens, inside the language model."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.flops import linear
from zoo_exp.core.fusion import top_k
from zoo_exp.selectors.layer.base import (
    LayerAnswer,
    LayerSelector,
    LayerView,
    Prompt,
    Schedule,
    check_depth,
    exact_count,
    kept_behind,
)
from zoo_exp.selectors.options import at_least, one_of, required_budget


@dataclass(frozen=True)
class Dart(LayerSelector):
    """After `k` layers, keeps the tokens that are least similar to a few pivot tokens.

    Pivots are the visual tokens, and the text tokens after the image, whose keys have the largest L1 norm.
    Pivots select tokens one after another, image pivots first, in the order of descending norms. With budget T the
    selector keeps image_pivots + pivots * floor(T / pivots) tokens, which is close to T.

    Attributes:
        variant: `paper`: pivots in the order of their norms; `official_code`: in the order in which CPython iterates
            over a set of their positions in the prompt.
        k: layers that see every token, 1 or more.
        image_pivots: pivots among the visual tokens.
        text_pivots: pivots among the text tokens.
    """

    name: ClassVar[str] = "dart"
    at_most: ClassVar[bool] = False  # every pivot keeps at least one token
    paper: ClassVar[str] = (
        "DART (EMNLP 2025, arXiv 2502.11494); with variant=official_code "
        "as released (ZichenWen1/DART, commit not recorded)"
    )

    k: int = 2
    image_pivots: int = 4
    text_pivots: int = 4
    variant: str = "paper"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least(self, "k", 1)
        at_least(self, "image_pivots", 1)
        at_least(self, "text_pivots", 0)
        one_of(self, "variant", ("paper", "official_code"))

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The last full layer."""
        check_depth(self.name, "k", self.k, n_layers)
        return (self.k - 1,)

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """The budget; for a mean over the layers, the nearest possible count."""
        budget = required_budget(budget, self.name)
        if budget.per != "mean":
            return {self.k - 1: budget.resolve(n_visual)}
        kept = kept_behind(budget, n_visual, n_layers, self.k, self.name)
        if kept <= self.image_pivots or kept == n_visual:
            return {self.k - 1: kept}
        pivots = self.image_pivots + self.text_pivots
        # Every pivot keeps the same number of tokens, so counts are multiples of the number of pivots.
        exact = exact_count(budget, n_visual, n_layers, self.k, self.name)
        steps = round((exact - self.image_pivots) / pivots)
        return {self.k - 1: min(max(steps * pivots, self.image_pivots), n_visual - 1)}

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Pivots, then the tokens that are least similar to each of them."""
        visual = view.visual.nonzero().squeeze(1)
        n_visual = len(visual)
        if count >= n_visual:
            return LayerAnswer(torch.arange(n_visual, device=visual.device))
        norms = view.keys().float().abs().sum(dim=1)
        text = (~view.visual).nonzero().squeeze(1)
        text = text[text > visual[0]]
        first = top_k(norms[visual], min(self.image_pivots, count))
        second = text[top_k(norms[text], min(self.text_pivots, len(text)))]
        pivots = torch.cat([visual[first], second])
        if self.variant == "official_code":
            pivots = torch.tensor(list(set(pivots.tolist())), device=pivots.device)
        each = count // (self.image_pivots + self.text_pivots)
        states = F.normalize(view.norm(view.hidden).float(), dim=-1)
        likeness = states[pivots] @ states[visual].T
        taken = torch.zeros(n_visual, dtype=torch.bool, device=visual.device)
        taken[first] = True
        free = n_visual - len(first)
        for row in likeness:
            chosen = top_k(-row.masked_fill(taken, float("inf")), min(each, free))
            taken[chosen] = True
            free -= len(chosen)
        return LayerAnswer(taken.nonzero().squeeze(1))

    def start_flops(self, prompt: Prompt) -> int:
        """0: `start` does nothing."""
        return 0

    def pick_flops(self, view: LayerView, count: int, answer: LayerAnswer) -> int:
        """Cosines of every pivot with every visual token."""
        n_visual = int(view.visual.sum())
        if count >= n_visual:
            return 0
        first = int(view.visual.nonzero()[0])
        text = int((~view.visual[first:]).sum())
        pivots = min(self.image_pivots, count) + min(self.text_pivots, text)
        return linear(pivots, view.hidden.shape[1], n_visual)

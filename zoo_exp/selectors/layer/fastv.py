"""FastV: after a few layers, keeps the visual tokens with the most attention from the last token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.fusion import top_k
from zoo_exp.selectors.layer.base import (
    LayerAnswer,
    LayerSelector,
    LayerView,
    Prompt,
    Schedule,
    check_depth,
    kept_behind,
)
from zoo_exp.selectors.options import at_least, one_of, required_budget

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class FastV(LayerSelector):
    """Keeps the visual tokens with the most attention after the first `k` layers.

    Attributes:
        k: layers that see every token, 1 or more; attention is that of the last of them.
        rule: `last_token`, as released, or `all_tokens`: the attention that a token receives from all others,
            as the paper says.
        budget_of: `kept` counts the tokens after layer k; `layer_average` is the mean over all layers, which
            is how SparseVLM's tables count FastV, and what a budget such as "64 mean" asks of any layer selector.
    """

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "FastV (ECCV 2024, arXiv 2403.06764), as released (pkunlp-icler/FastV d165972)"

    k: int = 2
    rule: str = "last_token"
    budget_of: str = "kept"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least(self, "k", 1)
        one_of(self, "rule", ("last_token", "all_tokens"))
        one_of(self, "budget_of", ("kept", "layer_average"))

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The last full layer."""
        check_depth(self.name, "k", self.k, n_layers)
        return (self.k - 1,)

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """The budget; for a mean over the layers, the count that gives this mean."""
        budget = required_budget(budget, self.name)
        if self.budget_of == "kept" and budget.per != "mean":
            return {self.k - 1: budget.resolve(n_visual)}
        return {self.k - 1: kept_behind(budget, n_visual, n_layers, self.k, self.name)}

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """The visual tokens with the most attention, ascending."""
        n_visual = int(view.visual.sum())
        if count >= n_visual:
            return LayerAnswer(torch.arange(n_visual, device=view.hidden.device))
        return LayerAnswer(top_k(self.received(view)[view.visual], count).sort().values)

    def start_flops(self, prompt: Prompt) -> int:
        """0: `start` does nothing."""
        return 0

    def pick_flops(self, view: LayerView, count: int, answer: LayerAnswer) -> int:
        """0: attention is counted separately."""
        return 0

    def received(self, view: LayerView) -> Tensor:
        """Attention that every token gets, mean over heads [n]."""
        n = len(view.visual)
        rows = torch.arange(n, device=view.hidden.device)
        if self.rule == "last_token":
            return view.attention(rows[-1:])[:, 0].mean(dim=0)
        total = torch.zeros(n, device=view.hidden.device)
        for part in rows.split(_ROWS_AT_ONCE):
            attention = view.attention(part).mean(dim=0)
            attention[torch.arange(len(part), device=part.device), part] = 0  # from all other tokens
            total += attention.sum(dim=0)
        return total / max(1, n - 1)

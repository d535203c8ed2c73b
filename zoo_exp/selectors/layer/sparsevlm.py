"""SparseVLM: at three depths, keeps the tokens that relevant words attend to, and merges some of the rest."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.flops import linear
from zoo_exp.core.fusion import top_k
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.layer.base import (
    LayerAnswer,
    LayerSelector,
    LayerView,
    Prompt,
    Schedule,
)
from zoo_exp.selectors.layer.density_peaks import merge_by_density
from zoo_exp.selectors.options import at_least, one_of, required_budget

RELEASED_TOKENS, RELEASED_LAYERS = 576, 32
STAGES = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""Nominal budget of the released code -> kept tokens of 576 after each stage."""
RANKS = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}
"""v1.0: a stage keeps rank * scale + bias tokens."""
DEPTHS = {"1.0": (2, 6, 15, 19), "1.5": (2, 6, 15), "2.0": (2, 6, 15)}
"""Layers of 32, from 0, after which the versions prune."""


@dataclass(frozen=True)
class Question:
    """State shared by the stages: positions of the raters in the prompt [r], and v1.0's scale and bias."""

    raters: Tensor
    rank_line: tuple[float, float] | None


@dataclass(frozen=True)
class SparseVLM(LayerSelector):
    """Prunes progressively by the attention of words that are relevant to the image (raters).

    The released counts apply to 576 visual tokens and 32 layers. They are scaled to other sizes, and interpolated
    between the released budgets. The budget is nominal; records contain the actual counts.

    Attributes:
        positions: None for that of the version: `original` for v2.0, else `contiguous`.
        version: `1.5` (the released default), `2.0` (no recycling, distance divided out, 14 heads) or `1.0`
            (counts from the rank of the attention).
        recycle: merge the most relevant of the dropped tokens; None for the behaviour of the version.
        heads: number of attention heads used by v2.0.
    """

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = (
        "SparseVLM (ICML 2025, arXiv 2410.04417), as released (Gumpest/SparseVLMs 26a5f48, v1.0 91fb6d9)"
    )

    positions: str | None = None
    version: str = "1.5"
    recycle: bool | None = None
    heads: int = 14

    def __post_init__(self) -> None:
        """Check the options."""
        one_of(self, "version", tuple(DEPTHS))
        one_of(self, "recycle", (None, True, False))
        at_least(self, "heads", 1)
        if self.positions is None:
            object.__setattr__(self, "positions", "original" if self.version == "2.0" else "contiguous")
        super().__post_init__()

    @property
    def recycles(self) -> bool:
        """Whether dropped tokens are merged."""
        return self.version != "2.0" if self.recycle is None else self.recycle

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The released depths, scaled to the model's."""
        depths = DEPTHS[self.version]
        if n_layers <= len(depths):
            raise InvalidValueError(
                f"selector sparsevlm prunes after {len(depths)} layers and the language model has {n_layers}: "
                f"it needs {len(depths) + 1}"
            )
        scaled: list[int] = []
        for depth in depths:
            at = depth * n_layers // RELEASED_LAYERS
            scaled.append(max(at, scaled[-1] + 1) if scaled else at)
        return tuple(scaled)

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """Counts of the stages; an upper bound for v1.0, which derives them from the rank of the attention."""
        stages = self.layers(n_layers)
        asked = required_budget(budget, self.name)
        if asked.per == "mean":
            return self._mean_schedule(asked, n_visual, n_layers)
        if self.version == "1.0":
            self.rank_line(budget, n_visual)
            return dict.fromkeys(stages, n_visual)
        counts = interpolate(STAGES[self.version], self._named(budget, n_visual), budget)
        return dict(zip(stages, (max(1, round(c * n_visual / RELEASED_TOKENS)) for c in counts), strict=True))

    def _mean_schedule(self, budget: Budget, n_visual: int, n_layers: int) -> Schedule:
        """Counts in the proportions of the released ones whose mean over the layers comes nearest to the budget.

        Raises:
            InvalidValueError: the full layers alone exceed the mean, or the version is 1.0.
        """
        stages, target = self.layers(n_layers), budget.resolve(n_visual)
        if self.version == "1.0":
            raise InvalidValueError(
                f"budget {budget} of selector sparsevlm: version 1.0 derives its counts from the attention and cannot "
                "reach a mean over layers; use version 1.5 or 2.0"
            )

        def counts(scale: float) -> list[int]:
            return proportional(STAGES[self.version], scale, n_visual)

        def mean(kept: list[int]) -> float:
            return sum(self._inputs(dict(zip(stages, kept, strict=True)), n_visual, n_layers)) / n_layers

        least = mean([1] * len(stages))
        if target < least:
            raise InvalidValueError(
                f"budget {budget} of selector sparsevlm: the first layers see all {n_visual} visual tokens, so that "
                f"the smallest possible mean over {n_layers} layers is {least:.1f}; give {math.ceil(least)} or more"
            )
        low, high = 0.0, 1.0  # 0: one token after every stage; 1: all of them
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if mean(counts(middle)) <= target else (low, middle)
        kept = counts(low)
        # Adjust the last stage token by token, to correct rounding.
        options = [
            [*kept[:-1], last] for last in range(max(1, kept[-1] - 8), min(kept[-2], kept[-1] + 8) + 1)
        ]
        best = min([kept, *options], key=lambda one: abs(mean(one) - target))
        return dict(zip(stages, best, strict=True))

    def _inputs(self, schedule: Schedule, n_visual: int, n_layers: int) -> list[int]:
        """Visual tokens at the input of every layer under a schedule, merged ones included."""
        seen, inputs = n_visual, []
        for layer in range(n_layers):
            inputs.append(seen)
            if layer in schedule:
                kept = max(1, min(schedule[layer], seen - 1))
                recycled_tokens = (int((seen - kept) * 0.3) + 1) // 10 + 1
                seen = kept + (recycled_tokens if self.recycles and kept < seen else 0)
        return inputs

    def rank_line(self, budget: BudgetLike, n_visual: int) -> tuple[float, float]:
        """Scale and bias of v1.0, for the named budget that lies within one token of 576."""
        named = self._named(budget, n_visual)
        for name, line in RANKS.items():
            if abs(name - named) < 1:
                return line
        raise InvalidValueError(
            f"budget {budget} of selector sparsevlm: version 1.0 supports only 192, 128 and 64 of 576 tokens "
            "(33.3%, 22.2%, 11.1%)"
        )

    def start(self, prompt: Prompt) -> Question:
        """Find raters among the text tokens after the first image (or all text tokens if nothing follows)."""
        text = (~prompt.visual).nonzero().squeeze(1)
        behind = text[text > prompt.visual.nonzero()[0]]
        text = behind if len(behind) else text
        chosen = text[raters(prompt.embeds[prompt.visual], prompt.embeds[text])]
        line = self.rank_line(prompt.budget, prompt.n_visual) if self.version == "1.0" else None
        return Question(chosen, line)

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Keep the tokens that raters attend to most; merge some of the others."""
        assert isinstance(state, Question)  # result of start
        rows = (view.source[:, None] == state.raters.to(view.source.device)).any(dim=1).nonzero().squeeze(1)
        attention = view.attention(rows)[:, :, view.visual]
        n_visual = attention.shape[-1]
        if state.rank_line is not None:
            count = rank_count(attention, *state.rank_line)
            if count >= n_visual:
                return LayerAnswer(torch.arange(n_visual, device=rows.device))
        if self.version == "2.0":
            attention = strongest_heads(attention / view.gravity(rows)[:, view.visual], self.heads)
        relevance = attention.mean(dim=(0, 1))
        # In the release, a stage always drops a token; here the last one is kept.
        kept = top_k(relevance, max(1, min(count, n_visual - 1))).sort().values
        if not self.recycles or len(kept) == n_visual:
            return LayerAnswer(kept)
        return LayerAnswer(kept, recycled(view.hidden[view.visual], relevance, kept))

    def start_flops(self, prompt: Prompt) -> int:
        """Products of every visual token with every text token after the first visual one."""
        first = int(prompt.visual.nonzero()[0])
        text = int((~prompt.visual[first:]).sum()) or int((~prompt.visual).sum())
        return linear(prompt.n_visual, prompt.embeds.shape[1], text)

    def pick_flops(self, view: LayerView, count: int, answer: LayerAnswer) -> int:
        """Cluster means of the recycled tokens; attention is counted separately."""
        if answer.merged is None:
            return 0
        dropped = int(view.visual.sum()) - len(answer.indices)
        return linear(len(answer.merged), int(dropped * 0.3) + 1, view.hidden.shape[1])

    def _named(self, budget: BudgetLike, n_visual: int) -> float:
        """The budget scaled to an image of 576 tokens; exact to one token of the image."""
        parsed = required_budget(budget, self.name)
        count = parsed.resolve(n_visual)
        if parsed.keep_ratio is not None:
            return parsed.keep_ratio * RELEASED_TOKENS
        token = RELEASED_TOKENS / n_visual
        nearest = min(RANKS, key=lambda name: abs(name - count * token))
        return nearest if abs(nearest - count * token) < token else count * token


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Text tokens that are more relevant to the image than average: indices into `text`.

    Args:
        visual: embeddings of the visual tokens [N, D].
        text: embeddings of the text tokens [L, D].

    Returns:
        Indices [r], ascending; never empty for L > 0: some value is at least the mean, and if all are equal, all tokens
        are raters.
    """
    fit = (visual.float() @ text.float().T).softmax(dim=1).mean(dim=0)
    chosen = (fit > fit.mean()).nonzero().squeeze(1)
    return chosen if len(chosen) else torch.arange(len(text), device=text.device)


def rank_count(attention: Tensor, scale: float, bias: float) -> int:
    """Count of v1.0 from the rank of the head-averaged attention [H, r, N]; N if the rank is full."""
    rank, n_visual = int(torch.linalg.matrix_rank(attention.mean(dim=0).float())), attention.shape[-1]
    return n_visual if rank == n_visual else min(int(rank * scale + bias), n_visual - 1)


def strongest_heads(attention: Tensor, heads: int) -> Tensor:
    """The heads of [H, r, N] with the largest sum, at most `heads` of them."""
    strength = attention.sum(dim=(1, 2))
    return attention[top_k(strength, min(heads, len(strength)))]


def recycled(hidden: Tensor, relevance: Tensor, kept: Tensor, noise: Tensor | None = None) -> Tensor:
    """Merge the most relevant 30 % of the dropped tokens into a tenth as many.

    Args:
        hidden: states of the visual tokens [N, D].
        relevance: of each [N].
        kept: tokens that stay [k].
        noise: see `merge_by_density`.

    Returns:
        Merged tokens [m, D].
    """
    dropped = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
    dropped[kept] = False
    rest = dropped.nonzero().squeeze(1)
    best = rest[top_k(relevance[rest], int(len(rest) * 0.3) + 1)]
    return merge_by_density(hidden[best], len(best) // 10 + 1, noise)


def proportional(table: Mapping[int, tuple[int, ...]], scale: float, n_visual: int) -> list[int]:
    """Counts of the stages, interpolated from one token each (0) over the released schedules to all tokens (1)."""
    released = sorted(table.items())
    points = [(0.0, (0.0,) * len(released[0][1]))]
    points += [(name / RELEASED_TOKENS, tuple(map(float, counts))) for name, counts in released]
    points.append((1.0, (float(RELEASED_TOKENS),) * len(released[0][1])))
    above = next(i for i, (at, _) in enumerate(points) if i and at >= scale)
    (start, first), (stop, second) = points[above - 1], points[above]
    share = (scale - start) / (stop - start)
    counts = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return [min(n_visual, max(1, round(count * n_visual / RELEASED_TOKENS))) for count in counts]


def interpolate(table: Mapping[int, tuple[int, ...]], named: float, budget: BudgetLike) -> tuple[float, ...]:
    """Counts of the stages for a budget of 576 tokens, interpolated between the released ones.

    Raises:
        InvalidValueError: the budget is outside the table.
    """
    names = sorted(table)
    if not names[0] - 1 < named < names[-1] + 1:
        raise InvalidValueError(
            f"budget {budget} of selector sparsevlm: its schedules reach from {names[0]} to {names[-1]} of "
            f"{RELEASED_TOKENS} visual tokens ({names[0] / RELEASED_TOKENS:.1%} to {names[-1] / RELEASED_TOKENS:.1%})"
        )
    nearest = min(names, key=lambda n: abs(n - named))
    if abs(nearest - named) < 1:
        return table[nearest]
    above = next(n for n in names if n > named)
    below = names[names.index(above) - 1]
    share = (named - below) / (above - below)
    return tuple(b + share * (a - b) for b, a in zip(table[below], table[above], strict=True))

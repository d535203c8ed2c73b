"""What a selector costs in FLOPs, where that can be said without running it: 1 multiply-add = 2 FLOP.

What is computed once per model (the closed form's kernel, a truncated SVD) is not in it, as it is paid once. A
selector with a method `flops(tokens, budget) -> int` speaks for itself; the bench counts the others while they run.
"""

from collections.abc import Callable
from typing import Any

from zoo_exp.core.budget import Budget
from zoo_exp.core.closed_form import PatchMerger, kernel_area
from zoo_exp.core.diversity import pair_area
from zoo_exp.core.flops import linear
from zoo_exp.core.sensitivity import MLP, output_area
from zoo_exp.core.tokens import VisualTokens

FREE = ("full", "blind", "random", "uniform_grid", "feature_norm", "cls_attention")
"""Rules without a matrix product of their own; what they look at is captured from the vision tower."""


def selector_flops(
    selector: Any, tokens: VisualTokens, budget: Budget | int | float | str | None
) -> int | None:
    """FLOPs of selecting from one image, or None where the rule is not known here.

    Args:
        selector: an input selector.
        tokens: the image's visual tokens.
        budget: how many stay, as in `select`.
    """
    own: Callable[..., int] | None = getattr(selector, "flops", None)
    if own is not None:
        return int(own(tokens, budget))
    if selector.name in FREE:
        return 0
    if selector.name == "divprune":
        return _distances(selector, tokens, budget)
    if selector.name == "zoo":
        scores = _sensitivity(selector, tokens)
        if scores is None or not selector.is_greedy:
            return scores
        return scores + _distances(selector, tokens, budget)
    return None


def _distances(selector: Any, tokens: VisualTokens, budget: Any) -> int:
    """Cosines of the tokens that compete; a greedy rule multiplies out about half of the pairs."""
    counts = [tokens.count]
    if tokens.tile is not None:
        groups = selector.plan(tokens, budget).groups
        counts = [tokens.count if group.index is None else len(group.index) for group in groups if group.k]
    width = tokens.projected.shape[1]
    return sum(linear(pair_area(n, width, tokens.device), width, 1) for n in counts)


def _sensitivity(zoo: Any, tokens: VisualTokens) -> int | None:
    """S of every token. N tokens, projector [Dv, H, D], M directions."""
    if zoo.fusion == "diversity" or zoo.estimator == "feature_norm":
        return 0
    mlp: Any = tokens.mlp
    # How often forward-mode differentiation computes the value besides the derivative is torch's business.
    if zoo.layer is not None or zoo.estimator == "first_order" or not isinstance(mlp, MLP | PatchMerger):
        return None
    n, m = tokens.count, int(zoo.n_directions)
    inner = mlp.mlp if isinstance(mlp, PatchMerger) else mlp
    (hidden, width), out = inner.w1.shape, inner.w2.shape[0]
    project = linear(1, width, hidden) + linear(1, hidden, out)
    if zoo.estimator == "closed_form":
        if isinstance(mlp, PatchMerger):
            patches = width // len(mlp.norm)
            correction = linear(n, width // patches, hidden) + linear(n, hidden, out)
            return linear(n, width, hidden) + patches * (linear(n, 1, kernel_area(hidden)) + correction)
        return linear(n, width, hidden) + linear(n, 1, kernel_area(hidden))
    dtype = zoo.dtype or ("float16" if zoo.variant == "official_code" else "float32")
    half = dtype in ("float16", "bfloat16")
    if isinstance(mlp, PatchMerger) or (half and zoo.projector == "full"):
        return 2 * m * n * project
    rank = None if zoo.projector == "full" else zoo.rank
    if half and rank is not None:
        return 2 * m * n * (linear(1, width + hidden, rank) + linear(1, hidden + out, rank))
    return linear(n + m, width, hidden) + m * linear(n, 1, output_area(rank or out, hidden))

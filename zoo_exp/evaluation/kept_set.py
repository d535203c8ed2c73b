"""Properties of a kept set of tokens: agreement with another set or ranking, and effective rank."""

import math

import torch
from scipy import stats
from torch import Tensor

FEWEST = 3
"""Rank correlations need at least this many tokens."""


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two scores [N]; nan if one is constant or there are fewer than 3 tokens.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 90.0]))
    1.0
    """
    a, b = first.double().cpu().numpy(), second.double().cpu().numpy()
    if len(a) < FEWEST or (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    return round(float(stats.spearmanr(a, b).statistic), 12)


def above(scores: Tensor, threshold: float) -> Tensor:
    """Indices of the tokens whose score, scaled to 0..1 over the image, reaches the threshold.

    The supplement (A) of ZOO-Prune filters "low-sensitivity tokens" with a threshold of 0.5 without a unit; here it is
    halfway between the lowest and the highest score of the image.
    """
    low, high = scores.min(), scores.max()
    if high <= low:
        return torch.arange(len(scores), device=scores.device)
    return ((scores - low) / (high - low) >= threshold).nonzero().flatten()


def effective_rank(features: Tensor) -> float:
    """Effective rank of the directions of features [K, D]: exp of the entropy of their singular values.

    Between 1 (all equal) and min(K, D). Rows are scaled to unit length, so that a few long ones do not dominate.
    Source: Roy and Vetterli, EUSIPCO 2007.

    >>> round(effective_rank(torch.eye(4)), 3), round(effective_rank(torch.ones(4, 4)), 3)
    (4.0, 1.0)
    """
    if not len(features):
        return 0.0
    rows = features.double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    values = torch.linalg.svdvals(rows)
    share = values / values.sum().clamp_min(1e-300)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def overlap(first: Tensor, second: Tensor) -> float:
    """Jaccard index of two kept sets: shared tokens over all tokens; nan for two empty sets."""
    a, b = set(first.tolist()), set(second.tolist())
    return len(a & b) / len(a | b) if a | b else math.nan

"""Combination of importance and diversity."""

import torch
from torch import Tensor

FUSIONS = ("none", "diversity", "sum", "multiply")
"""How importance S and diversity determine the picks (distance: cosine distance to the nearest picked token).

| fusion | score of a token | first pick | a constant S gives |
|---|---|---|---|
| none | S | largest S | tokens 0..k-1 |
| diversity | distance | largest nearest-neighbour distance | the same: S is not used |
| sum | min_max(S) + distance | largest S | diversity, starting at token 0 |
| multiply | min_max(S) * distance | largest S | diversity, starting at token 0 |

Under `multiply` the least important token has score 0 and is picked last, unless others are duplicates.
"""


def min_max(scores: Tensor, constant: float = 1.0) -> Tensor:
    """Scale scores to 0..1: (S - min) / (max - min + 1e-8).

    ZOO-Prune's release returns ones for constant scores on LLaVA-1.5. Its LLaVA-NeXT file returns zeros (so that the
    picks are tokens 0, 1, 2, ...), and 0 / 0 in half precision.

    Args:
        scores: S [N].
        constant: value of every token if all scores are equal.

    Returns:
        [N] in float32.

    >>> min_max(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    >>> min_max(torch.tensor([7.0, 7.0]))
    tensor([1., 1.])
    """
    scores = scores.float()
    if not scores.numel():
        return scores
    low, high = torch.aminmax(scores)
    return torch.where(high > low, (scores - low) / (high - low + 1e-8), torch.full_like(scores, constant))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the highest scores; equal scores in index order on every device.

    Args:
        scores: [N].
        k: how many.

    Returns:
        Indices, best first [k] (int64).

    >>> top_k(torch.tensor([1.0, 5.0, 5.0, 2.0]), 3)
    tensor([1, 2, 3])
    """
    return scores.sort(descending=True, stable=True).indices[:k]

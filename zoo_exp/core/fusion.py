"""How importance and diversity are combined into one order of picks."""

import torch
from torch import Tensor

FUSIONS = ("none", "diversity", "sum", "multiply")
"""How importance S and diversity decide the order of picks (the cosine distance is that to the nearest picked token).

| fusion | score of a token | first pick | a constant S gives |
|---|---|---|---|
| none | S | largest S | tokens 0..k-1 |
| diversity | distance | largest nearest-neighbour distance | the same: S is not used |
| sum | min_max(S) + distance | largest S | diversity, starting at token 0 |
| multiply | min_max(S) * distance | largest S | diversity, starting at token 0 |

Under `multiply` the least important token scores 0 and comes last unless others are duplicates too.
"""


def min_max(scores: Tensor, constant: float = 1.0) -> Tensor:
    """Scale scores [N] to 0..1 in float32: (S - min) / (max - min + 1e-8), or `constant` if they are equal.

    All ones is what ZOO-Prune's release does for LLaVA-1.5; its LLaVA-NeXT file gives all zeros (so that picks are
    tokens 0, 1, 2, ...), and in half precision 0 / 0.
    """
    scores = scores.float()
    if not scores.numel():
        return scores
    low, high = torch.aminmax(scores)
    return torch.where(high > low, (scores - low) / (high - low + 1e-8), torch.full_like(scores, constant))


def top_k(scores: Tensor, k: int) -> Tensor:
    """The k highest of scores [N], best first [k] (int64); equal scores in order of index on every device."""
    return scores.sort(descending=True, stable=True).indices[:k]

"""How importance and diversity meet in one order of picks."""

import torch
from torch import Tensor

from zoo_exp.core.diversity import greedy
from zoo_exp.errors import InvalidValueError

FUSIONS = ("none", "diversity", "sum", "multiply")


def min_max(scores: Tensor, constant: float = 1.0) -> Tensor:
    """Scale scores [N] to 0..1 in float32: (S - min) / (max - min + 1e-8), or `constant` if they are equal.

    All ones is what the LLaVA-1.5 release does; its NeXT file gives all zeros (so that picks are tokens 0, 1,
    2, ...), and half precision 0 / 0 (spec: algorithms 1.2).
    """
    scores = scores.float()
    if not scores.numel():
        return scores
    low, high = torch.aminmax(scores)
    return torch.where(high > low, (scores - low) / (high - low + 1e-8), torch.full_like(scores, constant))


def top_k(scores: Tensor, k: int) -> Tensor:
    """The k highest of scores [N], best first [k] (int64); equal scores in order of index on every device."""
    return scores.sort(descending=True, stable=True).indices[:k]


def fused_order(embeddings: Tensor, scores: Tensor, k: int, fusion: str) -> Tensor:
    """Pick k tokens by importance, diversity or both.

    | fusion | score of a token | first pick | a constant S gives |
    |---|---|---|---|
    | none | S | largest S | tokens 0..k-1 |
    | diversity | distance to the picked ones | largest nearest-neighbour distance | the same: S is not used |
    | sum | min_max(S) + distance | largest S | diversity, starting at token 0 |
    | multiply | min_max(S) * distance | largest S | diversity, starting at token 0 |

    Under `multiply` the least important token scores 0 and comes last unless others are duplicates too.

    Args:
        embeddings: rows whose cosine distance is diversity [N, D].
        scores: importance [N].
        k: how many to pick, 0 to N.
        fusion: one of `FUSIONS`.

    Returns:
        Picked tokens in pick order [k] (int64).

    Raises:
        InvalidValueError: an unknown fusion, or what `greedy` refuses.
    """
    if fusion == "diversity":
        return greedy(embeddings, k)
    if fusion in ("sum", "multiply"):
        return greedy(embeddings, k, min_max(scores), combine=fusion)
    if fusion != "none":
        raise InvalidValueError(f"fusion '{fusion}': allowed are {', '.join(FUSIONS)}")
    if not 0 <= k <= len(scores):
        raise InvalidValueError(f"k {k}: allowed are 0 to {len(scores)}, the number of visual tokens")
    return top_k(scores, k)

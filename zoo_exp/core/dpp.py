"""Greedy MAP inference for a determinantal point process."""

import torch
from torch import Tensor

from zoo_exp.core.checks import check_values
from zoo_exp.core.diversity import cosine_distances
from zoo_exp.core.fusion import top_k
from zoo_exp.errors import InvalidValueError

_FLOOR = 1e-6


def conditional_dpp(embeddings: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Greedy MAP of the kernel L = diag(q) S diag(q), S the cosine similarity, one row of L per step.

    Tokens with a remaining volume below 1e-6 of the largest diagonal entry of L, which is rounding error, are not
    picked. Once the rank of the kernel is exhausted, the remaining picks are the most relevant of the other tokens.
    (The release takes the root of zero or negative numbers there, and divides by it.)

    Args:
        embeddings: rows to compare [N, D].
        relevance: q, non-negative [N].
        k: number of tokens to pick, 0 to N.

    Returns:
        Picked rows in pick order [k] (int64); ties go to the lowest index.

    Raises:
        InvalidValueError: k is out of range, relevance is negative, or shapes do not match.
    """
    n = len(embeddings)
    if not 0 <= k <= n:
        raise InvalidValueError(f"k {k}: allowed are 0 to {n}, the number of visual tokens")
    wrong = f"relevance must be [{n}] and not negative, got shape {tuple(relevance.shape)}"
    if relevance.shape != (n,):
        raise InvalidValueError(wrong)
    check_values((relevance >= 0).all(), wrong)
    q = relevance.double()
    similarity = 1 - cosine_distances(embeddings)
    volume = q * q
    if not k:
        return torch.empty(0, dtype=torch.int64, device=embeddings.device)
    floor = _FLOOR * volume.max()
    factors = torch.zeros(k, n, dtype=torch.float64, device=embeddings.device)
    picks, found = [], []
    # The host reads no value, so that it need not wait for a GPU: once no volume is left, steps change nothing.
    for step in range(k):
        j = volume.argmax(dim=0, keepdim=True)
        largest = volume.index_select(0, j)
        some = largest > floor
        done = factors[:step]
        own = q.index_select(0, j) * similarity.index_select(0, j)[0] * q
        row = own - done.index_select(1, j).squeeze(1) @ done
        factors[step] = torch.where(some, row / largest.sqrt(), 0.0)
        volume = volume - factors[step] ** 2
        volume.index_copy_(0, j, torch.where(some, float("-inf"), largest))
        picks.append(j)
        found.append(some)
    number = torch.arange(k, device=embeddings.device)
    count = torch.cat(found).sum()
    others = top_k(q.masked_fill(volume == float("-inf"), float("-inf")), k)
    return torch.where(number < count, torch.cat(picks), others[(number - count).clamp(min=0)])

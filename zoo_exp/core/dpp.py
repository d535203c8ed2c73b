"""Greedy MAP inference for a determinantal point process."""

import torch
from torch import Tensor

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
    if relevance.shape != (n,) or (n and float(relevance.min()) < 0):
        raise InvalidValueError(
            f"relevance must be [{n}] and not negative, got shape {tuple(relevance.shape)}"
        )
    q = relevance.double()
    similarity = 1 - cosine_distances(embeddings)
    volume = q * q
    floor = _FLOOR * float(volume.max()) if n else 0.0
    factors = torch.empty(k, n, dtype=torch.float64, device=embeddings.device)
    picks: list[int] = []
    while len(picks) < k:
        j = int(volume.argmax())
        if float(volume[j]) <= floor:
            break
        done = factors[: len(picks)]
        row = q[j] * similarity[j] * q - done[:, j] @ done
        factors[len(picks)] = row / volume[j].sqrt()
        volume = volume - factors[len(picks)] ** 2
        picks.append(j)
        volume[picks] = float("-inf")
    chosen = torch.tensor(picks, dtype=torch.int64, device=embeddings.device)
    if len(picks) == k:
        return chosen
    left = q.clone()
    left[chosen] = float("-inf")
    return torch.cat([chosen, top_k(left, k - len(picks))])

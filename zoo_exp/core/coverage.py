"""Greedy maximum coverage: the columns of a matrix whose row-wise maxima add up to the most."""

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

_BATCH = 16
_GRID = 2.0**40


def greedy_coverage(cover: Tensor, k: int) -> Tensor:
    """Pick k columns; each adds the most to the sum over rows of the largest picked entry (0 at the start).

    Lazy: the gain of a column only falls as others are picked, so an old gain is an upper bound, and only
        columns whose bound is
    on top are computed again. Same picks as computing all of them each time; ties go to the lowest index.

    Args:
        cover: how well each column covers each row [R, N], not negative.
        k: how many to pick, 0 to N.

    Returns:
        Picked columns in pick order [k] (int64).

    Raises:
        InvalidValueError: k out of range.
    """
    n = cover.shape[1]
    if not 0 <= k <= n:
        raise InvalidValueError(f"k {k}: allowed are 0 to {n}, the number of visual tokens")
    columns = cover.T.contiguous().float()
    best = torch.zeros(len(cover), device=cover.device)
    bound = torch.cat([gains(part, best) for part in columns.split(256)])
    fresh = torch.ones(n, dtype=torch.bool, device=cover.device)
    picks: list[int] = []
    for _ in range(k):
        while True:
            pick = int(bound.argmax())
            if fresh[pick]:
                break
            again = torch.cat([bound.topk(min(_BATCH, n)).indices, torch.tensor([pick], device=bound.device)])
            again = again[~fresh[again]]
            bound[again] = gains(columns[again], best)
            fresh[again] = True
        picks.append(pick)
        torch.maximum(best, columns[pick], out=best)
        bound[pick] = float("-inf")
        fresh.fill_(False)
        fresh[picks] = True  # never computed again: their bound stays at -inf
    return torch.tensor(picks, dtype=torch.int64, device=cover.device)


def gains(columns: Tensor, best: Tensor) -> Tensor:
    """What each of the columns [C, R] would add to the coverage `best` [R]: [C] in float64, ties exact."""
    added = (columns - best).clamp_min_(0).sum(dim=1, dtype=torch.float64)
    return added.mul_(_GRID).round_().div_(_GRID)

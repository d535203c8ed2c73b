"""Greedy maximum coverage: select columns of a matrix to maximise the sum of row-wise maxima."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

_BATCH = 16
_STEPS = 44
"""Gains are rounded to 2 to the power of this many steps of the largest first gain, so that rounding errors become
ties."""
COMBINATIONS = ("multiply", "add")


def greedy_coverage(
    cover: Tensor,
    k: int,
    weights: Tensor | None = None,
    *,
    combine: str = "multiply",
    excluded: Tensor | None = None,
) -> Tensor:
    """Pick k columns greedily; each maximises the gain in the sum over rows of the largest picked entry.

    The evaluation is lazy: gains of columns can only decrease as others are picked, so an earlier gain is an upper
    bound, and only the columns with the highest bounds are recomputed. The result equals that of computing all gains
    in every step; ties go to the lowest index. On a GPU all gains are computed in every step, because the host need
    not wait for any of them.

    Args:
        cover: coverage of each row by each column [R, N], non-negative.
        k: number of columns to pick, 0 to the number of columns that are not excluded.
        weights: importance of each column [N], non-negative, or None.
        combine: `multiply` ranks columns by gain * weight, `add` by gain + weight.
        excluded: columns that are never picked [N] (bool), or None.

    Returns:
        Picked columns in pick order [k] (int64).

    Raises:
        InvalidValueError: k out of range, an unknown `combine`.
    """
    n = cover.shape[1]
    allowed = n if excluded is None else n - int(excluded.sum())
    if not 0 <= k <= allowed:
        raise InvalidValueError(f"k {k}: allowed are 0 to {allowed}, the number of visual tokens")
    if combine not in COMBINATIONS:
        raise InvalidValueError(f"combine '{combine}': allowed are {', '.join(COMBINATIONS)}")
    columns = cover.T.contiguous().double()
    factors = None if weights is None else weights.double()

    def rate(index: Tensor) -> Tensor:
        gain = gains(columns[index], best, grid)
        if factors is None:
            return gain
        return gain * factors[index] if combine == "multiply" else gain + factors[index]

    best = torch.zeros(len(cover), dtype=torch.float64, device=cover.device)
    grid = _grid(columns.sum(dim=1).max()) if columns.numel() else best.new_ones(())
    everything = torch.arange(n, device=cover.device)
    bound = torch.cat([rate(part) for part in everything.split(256)]) if n else best.new_zeros(0)
    if excluded is not None:
        bound[excluded] = float("-inf")
    if cover.is_cuda:
        return _every_gain(columns, rate, best, bound, k)
    fresh = torch.ones(n, dtype=torch.bool, device=cover.device)
    picks: list[int] = []
    for _ in range(k):
        while True:
            pick = int(bound.argmax())
            if fresh[pick]:
                break
            again = torch.cat([bound.topk(min(_BATCH, n)).indices, torch.tensor([pick], device=bound.device)])
            again = again[~fresh[again] & (bound[again] > float("-inf"))]
            bound[again] = rate(again)
            fresh[again] = True
        picks.append(pick)
        torch.maximum(best, columns[pick], out=best)
        bound[pick] = float("-inf")
        fresh.fill_(False)
        fresh[picks] = True  # never recomputed: their bound stays -inf
    return torch.tensor(picks, dtype=torch.int64, device=cover.device)


def _every_gain(
    columns: Tensor, rate: Callable[[Tensor], Tensor], best: Tensor, bound: Tensor, k: int
) -> Tensor:
    """The picks [k], with all gains in every step and without a value that the host reads.

    Args:
        columns: [N, R].
        rate: rank values of some columns, given what `best` holds.
        best: coverage so far [R]; written to.
        bound: first rank values [N]; -inf for columns that are never picked.
        k: number of columns to pick.
    """
    parts = torch.arange(len(columns), device=columns.device).split(256)
    closed, picks = bound == float("-inf"), []
    for step in range(k):
        if step:
            bound = torch.cat([rate(part) for part in parts]).masked_fill_(closed, float("-inf"))
        pick = bound.argmax(dim=0, keepdim=True)
        picks.append(pick)
        torch.maximum(best, columns.index_select(0, pick)[0], out=best)
        closed = closed.index_fill(0, pick, True)
    return torch.cat(picks) if picks else parts[0][:0]


def _grid(largest: Tensor) -> Tensor:
    """Rounding steps per unit, a power of two, for gains of at most `largest` []: a tensor [] in float64."""
    exponent = _STEPS - torch.frexp(largest).exponent.long()
    return (exponent + 1023 << 52).view(torch.float64)  # the bits of 2.0 ** exponent


def gains(columns: Tensor, best: Tensor, grid: Tensor) -> Tensor:
    """Gain of each column over what is covered already.

    Args:
        columns: similarities of C candidates to R tokens [C, R].
        best: the coverage of every token [R].
        grid: gains are rounded to multiples of 1 / grid, so that ties are exact [].

    Returns:
        Gains [C] in float64.
    """
    added = (columns - best).clamp_min_(0).sum(dim=1)
    return added.mul_(grid).round_().div_(grid)

"""Greedy max-min selection: again and again the token that is farthest from all tokens picked so far.

Distances are accumulated in float64 and snapped to a grid of 2^-40 before they are stored in float32: values
that are equal on paper (exact duplicates, repeated geometry) are then equal in memory, so a tie goes to the
lowest index whatever the device, the shape of the product or the batch.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.errors import InvalidValueError
from zoo_exp.core.sensitivity import check_features

MATRIX_BYTES = 64 * 2**20
"""No temporary is larger: above 4096 tokens, rows of the distance matrix are computed when needed."""
_GRID = 2.0**40
COMBINATIONS = ("multiply", "sum")


def greedy(embeddings: Tensor, k: int, weights: Tensor | None = None, *, combine: str = "multiply") -> Tensor:
    """Pick k tokens one after another, each with the largest distance to the nearest picked one.

    Without weights it is DivPrune's rule: the first pick has the largest distance to its nearest neighbour.
    With weights it is ZOO-Prune's: the first pick has the largest weight, later ones the largest
    weight * distance (`combine="multiply"`) or weight + distance (`"sum"`). A token is never picked twice;
    ties go to the lowest index. A zero row has distance 1 to every other row.

    Args:
        embeddings: rows to compare [N, D], any float dtype.
        k: how many to pick, 0 to N.
        weights: importance of each token [N], used as it is (see `fusion.min_max`).
        combine: how weight and distance meet.

    Returns:
        Picked rows in pick order [k] (int64).

    Raises:
        InvalidValueError: shapes that do not fit, NaN or infinity, k out of range.
    """
    return greedy_many([embeddings], [k], None if weights is None else [weights], combine=combine)[0]


def greedy_many(
    embeddings: Sequence[Tensor],
    ks: Sequence[int],
    weights: Sequence[Tensor] | None = None,
    *,
    combine: str = "multiply",
) -> list[Tensor]:
    """`greedy` on several images or tiles at once, of any N and k; exactly the picks of one by one.

    Distances are computed per image, so they do not depend on the company; only the greedy steps are batched.
    """
    if combine not in COMBINATIONS:
        raise InvalidValueError(f"combine '{combine}': allowed are {', '.join(COMBINATIONS)}")
    for i, (rows, k) in enumerate(zip(embeddings, ks, strict=True)):
        _check(rows, k, None if weights is None else weights[i])
    out: list[Tensor] = []
    start = 0
    while start < len(embeddings):
        stop, longest = start + 1, len(embeddings[start])
        while stop < len(embeddings):
            grown = max(longest, len(embeddings[stop]))
            if (stop + 1 - start) * grown * grown * 4 > MATRIX_BYTES:
                break
            stop, longest = stop + 1, grown
        part = slice(start, stop)
        out += _greedy_batch(embeddings[part], ks[part], None if weights is None else weights[part], combine)
        start = stop
    return out


def cosine_distances(embeddings: Tensor) -> Tensor:
    """1 - cosine of every pair of rows [N, N] in float32; rows shorter than 1e-8 count as zero rows."""
    n = len(embeddings)
    step = _block_rows(embeddings)
    if n <= step:
        unit = _unit(embeddings)
        return _snap(unit @ unit.T)
    out = torch.empty(n, n, device=embeddings.device)
    for a in range(0, n, step):
        left = _unit(embeddings[a : a + step])
        for b in range(a, n, step):
            block = _snap(left @ (left if a == b else _unit(embeddings[b : b + step])).T)
            out[a : a + step, b : b + step] = block
            if a != b:
                out[b : b + step, a : a + step] = block.T
    return out


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of every row of `left` [A, D] with every row of `right` [B, D]: [A, B], ties exact."""
    return (_unit(left) @ _unit(right).T).mul_(_GRID).round_().div_(_GRID).float()


def nearest_distances(distances: Tensor) -> Tensor:
    """Distance of each row to its nearest other row [N], from all distances [N, N]; 0 for a single row."""
    if len(distances) < 2:
        return distances.new_zeros(len(distances))
    # Without the diagonal, where the release takes the second smallest: the same unless rounding interferes.
    return distances.clone().fill_diagonal_(float("inf")).amin(dim=1)


def _greedy_batch(
    embeddings: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor] | None, combine: str
) -> list[Tensor]:
    n = max(len(e) for e in embeddings)
    device = embeddings[0].device
    if n * n * 4 > MATRIX_BYTES:
        rows, first = _lazy_rows(embeddings[0], needs_first=weights is None)
    else:
        matrices = [cosine_distances(e) for e in embeddings]
        if weights is None:
            first = torch.stack([F.pad(nearest_distances(m), (0, n - len(m))) for m in matrices])
        rows = _stacked_rows(matrices, n)
    alive = torch.zeros(len(embeddings), n, device=device)
    for i, e in enumerate(embeddings):
        if len(e) < n:
            alive[i, len(e) :] = float("-inf")
    w = None
    if weights is not None:
        w = torch.stack([F.pad(x.float(), (0, n - len(x))) for x in weights])
        first = w
    picks = _steps(rows, first, alive, w, max(ks), combine)
    return [picks[i, :k] for i, k in enumerate(ks)]


def _steps(
    rows: Callable[[Tensor], Tensor],
    first: Tensor,
    alive: Tensor,
    weights: Tensor | None,
    k: int,
    combine: str,
) -> Tensor:
    """The greedy loop [B, k]; `alive` (0 for candidates, else -inf) is changed."""
    picks = torch.empty(len(alive), k, dtype=torch.int64, device=alive.device)
    nearest: Tensor | None = None
    score = first + alive
    for step in range(k):
        pick = score.argmax(dim=1, keepdim=True)
        picks[:, step : step + 1] = pick
        if step == k - 1:
            break
        alive.scatter_(1, pick, float("-inf"))
        distance = rows(pick.squeeze(1))
        nearest = distance if nearest is None else torch.minimum(nearest, distance, out=nearest)
        if weights is None:
            score = nearest + alive
        elif combine == "multiply":
            score = torch.addcmul(alive, nearest, weights)
        else:
            score = (nearest + weights).add_(alive)
    return picks


def _stacked_rows(matrices: list[Tensor], n: int) -> Callable[[Tensor], Tensor]:
    if len(matrices) == 1:
        return lambda pick: matrices[0].index_select(0, pick)
    stacked = torch.stack([F.pad(m, (0, n - len(m), 0, n - len(m))) for m in matrices]).flatten(0, 1)
    offset = torch.arange(len(matrices), device=stacked.device) * n
    return lambda pick: stacked.index_select(0, pick + offset)


def _lazy_rows(embeddings: Tensor, needs_first: bool) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Rows of one image's distances on demand, and its first scores [1, N] (zeros where weights decide)."""
    blocks = embeddings.split(_block_rows(embeddings))

    def rows(pick: Tensor) -> Tensor:
        one = _unit(embeddings.index_select(0, pick))
        return torch.cat([_snap(one @ _unit(block).T) for block in blocks], dim=1)

    first = torch.zeros(1, len(embeddings), device=embeddings.device)
    if needs_first:
        index = torch.arange(len(embeddings), device=embeddings.device)
        for part in index.split(max(1, MATRIX_BYTES // (16 * len(embeddings)))):
            mine = rows(part)
            mine[torch.arange(len(part), device=part.device), part] = float("inf")
            first[0, part] = mine.amin(dim=1)
    return rows, first


def _block_rows(embeddings: Tensor) -> int:
    """Rows per block such that a block in float64, and a product of two, stay far below the bound."""
    return max(1, min(1024, 2**21 // max(1, embeddings.shape[1])))


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.double(), dim=-1, eps=1e-8)


def _snap(cosine: Tensor) -> Tensor:
    return cosine.neg_().add_(1).mul_(_GRID).round_().div_(_GRID).clamp_(min=0).float()


def _check(rows: Tensor, k: int, weights: Tensor | None) -> None:
    check_features(rows, name="embeddings")
    if not 0 <= k <= len(rows):
        raise InvalidValueError(f"k {k}: allowed are 0 to {len(rows)}, the number of visual tokens")
    if weights is not None:
        if weights.shape != (len(rows),):
            raise InvalidValueError(f"weights must be [{len(rows)}], got shape {tuple(weights.shape)}")
        check_features(weights[None], name="weights")

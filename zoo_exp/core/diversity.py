"""Greedy max-min selection: repeatedly pick the token that is farthest from all tokens picked so far.

Distances are accumulated in float64 and rounded to multiples of 2^-40 before they are stored in float32. Distances
that are mathematically equal (exact duplicates, repeated geometry) are then equal in memory, and ties go to the
lowest index on every device, for every shape of the product and every batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.checks import check_features
from zoo_exp.errors import InvalidValueError

MATRIX_BYTES = 64 * 2**20
"""Maximum size of a temporary: above 4096 tokens, rows of the distance matrix are computed on demand."""
AHEAD, AHEAD_MOST, AHEAD_FROM = 24, 64, 2**27
"""Rows computed at a time when few are needed (three for every four picks, within these bounds), and the number of
multiply-adds from which this is faster."""
_GRID = 2.0**40
COMBINATIONS = ("multiply", "sum")


def greedy(embeddings: Tensor, k: int, weights: Tensor | None = None, *, combine: str = "multiply") -> Tensor:
    """Pick k tokens one after another, each with the largest distance to the nearest picked one.

    Without weights, as in DivPrune, the first pick has the largest distance to its nearest neighbour. With weights, as
    in ZOO-Prune, the first pick has the largest weight, and later ones the largest weight * distance
    (`combine="multiply"`) or weight + distance (`"sum"`). A token is never picked twice; ties go to the lowest index.
    A zero row has distance 1 to every other row.

    Args:
        embeddings: rows to compare [N, D], any float dtype.
        k: number of tokens to pick, 0 to N.
        weights: importance of each token [N], used unscaled (see `fusion.min_max`).
        combine: how weight and distance are combined.

    Returns:
        Picked rows in pick order [k] (int64).

    Raises:
        InvalidValueError: shapes do not match, values are NaN or infinite, or k is out of range.
    """
    return greedy_many([embeddings], [k], None if weights is None else [weights], combine=combine)[0]


def greedy_many(
    embeddings: Sequence[Tensor],
    ks: Sequence[int],
    weights: Sequence[Tensor] | None = None,
    *,
    combine: str = "multiply",
) -> list[Tensor]:
    """`greedy` on several images or tiles of any N and k; the picks equal those of separate calls.

    Distances are computed per image, so they do not depend on the batch; only the greedy steps are batched.

    Args:
        embeddings: rows of every image [N, D].
        ks: number of tokens to pick of each.
        weights: importance of the tokens of each [N], or None.
        combine: as in `greedy`.

    Returns:
        Picked rows of every image in pick order [k] (int64).

    Raises:
        InvalidValueError: as in `greedy`.
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
    n, width = embeddings.shape
    device = embeddings.device
    out = torch.empty(n, n, device=device)
    # Row norms first: they are needed on both sides of a block.
    lengths = torch.empty(n, dtype=torch.float64, device=device)
    rows, columns = _block(n, width, device)
    for a in range(0, n, rows):
        lengths[a : a + rows] = embeddings[a : a + rows].double().square_().sum(dim=1)
    scale = lengths.sqrt_().clamp_(min=1e-8).reciprocal_()
    for a in range(0, n, rows):
        # Only the upper triangle, in blocks of columns whose float64 copies fit in a CPU cache.
        block = torch.zeros(min(rows, n - a), n - a, dtype=torch.float64, device=device)
        for part in embeddings[a:].split(columns, dim=1):
            exact = part.double()
            block.addmm_(exact[:rows], exact.T)
        block.mul_(scale[a : a + rows, None]).mul_(scale[a:])
        out[a : a + rows, a:] = _snap(block)
        out[a + rows :, a : a + rows] = out[a : a + rows, a + rows :].T
    return out


def pair_area(n: int, width: int, device: torch.device) -> int:
    """Maximum number of entries of [`n`, `n`] distances of rows of `width` that are computed on `device`, for FLOPs."""
    if n * n * 4 > MATRIX_BYTES:  # rows on demand: with weights, only those of picked tokens
        return n * n
    rows, _ = _block(n, width, device)
    return sum(min(rows, n - a) * (n - a) for a in range(0, n, rows))


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of every row of `left` [A, D] with every row of `right` [B, D]: [A, B], ties exact."""
    return (_unit(left) @ _unit(right).T).mul_(_GRID).round_().div_(_GRID).float()


def exact_cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of every row of `left` [A, D] with every row of `right` [B, D]: [A, B] in float64, not rounded.

    For methods whose picks depend on differences below float32 resolution.
    """
    return _unit(left) @ _unit(right).T


def nearest_distances(distances: Tensor) -> Tensor:
    """Distance of each row to its nearest other row [N], from all distances [N, N]; 0 for a single row."""
    if len(distances) < 2:
        return distances.new_zeros(len(distances))
    # Excludes the diagonal; the release takes the second smallest value, which is the same up to rounding.
    return distances.clone().fill_diagonal_(float("inf")).amin(dim=1)


@dataclass(frozen=True)
class Batch:
    """Inputs of the greedy steps for B images, padded to the longest.

    Attributes:
        first: scores of the first pick [B, N].
        alive: 0 for candidates, -inf for padding [B, N].
        weights: importance [B, N], or None.
        distances: of all pairs [B, N, N], or None if `rows` computes them on demand.
        rows: function (picked token of every image [B], scores of the pick [B, N]) -> distances to all tokens [B, N].
    """

    first: Tensor
    alive: Tensor
    weights: Tensor | None
    distances: Tensor | None
    rows: Callable[[Tensor, Tensor], Tensor]


def prepare(embeddings: Sequence[Tensor], weights: Sequence[Tensor] | None, k: int) -> Batch:
    """Distances, masks and weights for the `k` picks of images that together fit the memory bound (or of a single one).

    They have the rows `embeddings` [N, D] and the importance `weights` [N].
    """
    n = max(len(e) for e in embeddings)
    device = embeddings[0].device
    distances: Tensor | None = None
    if n * n * 4 > MATRIX_BYTES:
        rows, first = _lazy_rows(embeddings[0], needs_first=weights is None)
    elif weights is not None and _few_rows_do(embeddings, k):
        rows = _rows_ahead(embeddings, n, k)
    else:
        matrices = [cosine_distances(e) for e in embeddings]
        if weights is None:
            first = torch.stack([F.pad(nearest_distances(m), (0, n - len(m))) for m in matrices])
        distances = _stacked(matrices, n)
        rows = _stacked_rows(distances)
    alive = torch.zeros(len(embeddings), n, device=device)
    for i, e in enumerate(embeddings):
        if len(e) < n:
            alive[i, len(e) :] = float("-inf")
    w = None
    if weights is not None:
        w = torch.stack([F.pad(x.float(), (0, n - len(x))) for x in weights])
        first = w
    return Batch(first, alive, w, distances, rows)


def steps(batch: Batch, k: int, combine: str) -> Tensor:
    """The greedy loop in torch: `k` picks of every image of `batch` [B, k] (int64); `combine` as in `greedy`."""
    alive = batch.alive.clone()
    picks = torch.empty(len(alive), k, dtype=torch.int64, device=alive.device)
    nearest: Tensor | None = None
    score = batch.first + alive
    for step in range(k):
        pick = score.argmax(dim=1, keepdim=True)
        picks[:, step : step + 1] = pick
        if step == k - 1:
            break
        alive.scatter_(1, pick, float("-inf"))
        distance = batch.rows(pick.squeeze(1), score)
        nearest = distance if nearest is None else torch.minimum(nearest, distance, out=nearest)
        if batch.weights is None:
            score = nearest + alive
        elif combine == "multiply":
            score = torch.addcmul(alive, nearest, batch.weights)
        else:
            score = (nearest + batch.weights).add_(alive)
    return picks


def _greedy_batch(
    embeddings: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor] | None, combine: str
) -> list[Tensor]:
    k = max(ks)
    batch = prepare(embeddings, weights, k)
    picks = _launch(batch, k, combine) if on_gpu(batch.first) and k else None
    if picks is None:
        picks = steps(batch, k, combine)
    return [picks[i, :k] for i, k in enumerate(ks)]


def on_gpu(tensor: Tensor) -> bool:
    """Whether the Triton kernel can run on the device of a tensor [...]."""
    return tensor.is_cuda


def _launch(batch: Batch, k: int, combine: str) -> Tensor | None:
    """Compute the picks in one kernel launch, if Triton is available and the matrix fits."""
    if batch.distances is None:
        return None
    from zoo_exp.core.greedy_kernel import greedy_launch  # imports Triton if it is installed

    return greedy_launch(batch.distances, batch.first, batch.alive, batch.weights, k, combine)


def _stacked(matrices: list[Tensor], n: int) -> Tensor:
    if len(matrices) == 1:
        return matrices[0][None]
    return torch.stack([m if len(m) == n else F.pad(m, (0, n - len(m), 0, n - len(m))) for m in matrices])


def _stacked_rows(distances: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    if len(distances) == 1:
        return lambda pick, _: distances[0].index_select(0, pick)
    flat = distances.flatten(0, 1)
    offset = torch.arange(len(distances), device=flat.device) * distances.shape[1]
    return lambda pick, _: flat.index_select(0, pick + offset)


def _few_rows_do(embeddings: Sequence[Tensor], k: int) -> bool:
    """Whether computing k rows on a CPU is cheaper than all pairs."""
    n, width = min(len(e) for e in embeddings), embeddings[0].shape[1]
    return embeddings[0].device.type == "cpu" and 4 * k <= n and n * n * width >= AHEAD_FROM


def _rows_ahead(embeddings: Sequence[Tensor], n: int, k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Rows on demand: computes the rows of the pick and the next best candidates in one product, which is cheaper."""
    columns = _block(n, embeddings[0].shape[1], embeddings[0].device)[1]
    scales = [_lengths(e, columns).clamp_(min=1e-8).reciprocal_() for e in embeddings]
    known = torch.zeros(len(embeddings), n, dtype=torch.bool)
    found = torch.empty(len(embeddings), n, n)  # only rows that are known are written and read
    images = torch.arange(len(embeddings))
    ahead = max(AHEAD, min(AHEAD_MOST, 3 * k // 4))

    def rows(pick: Tensor, score: Tensor) -> Tensor:
        for i, chosen in enumerate(pick.tolist()):
            if known[i, chosen]:
                continue
            count, likely = len(embeddings[i]), score[i].masked_fill(known[i], float("-inf"))
            likely[chosen] = float("inf")
            some = likely[:count].topk(min(ahead, count)).indices
            block = torch.zeros(len(some), count, dtype=torch.float64)
            for part in embeddings[i].split(columns, dim=1):
                exact = part.double()  # columns at a time: a copy of all of them would not fit in a CPU cache
                block.addmm_(exact[some], exact.T)
            found[i, some, :count] = _snap(block.mul_(scales[i][some, None]).mul_(scales[i]))
            found[i, some, count:] = 0
            known[i, some] = True
        return found[images, pick]

    return rows


def _lengths(rows: Tensor, columns: int) -> Tensor:
    """Length of every row [N] in float64, in blocks of columns."""
    square = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(columns, dim=1):
        square += part.double().square_().sum(dim=1)
    return square.sqrt_()


def _lazy_rows(embeddings: Tensor, needs_first: bool) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Distance rows of one image on demand, and its first scores [1, N] (zeros if there are weights)."""
    blocks = embeddings.split(_block_rows(embeddings))

    def rows(pick: Tensor, _: Tensor) -> Tensor:
        one = _unit(embeddings.index_select(0, pick))
        return torch.cat([_snap(one @ _unit(block).T) for block in blocks], dim=1)

    first = torch.zeros(1, len(embeddings), device=embeddings.device)
    if needs_first:
        index = torch.arange(len(embeddings), device=embeddings.device)
        for part in index.split(max(1, MATRIX_BYTES // (16 * len(embeddings)))):
            mine = rows(part, part)
            mine[torch.arange(len(part), device=part.device), part] = float("inf")
            first[0, part] = mine.amin(dim=1)
    return rows, first


def _block(n: int, width: int, device: torch.device) -> tuple[int, int]:
    """Block size (rows and columns) of a distance matrix that keeps temporaries below the bound."""
    bound, n = MATRIX_BYTES // 8, max(1, n)
    if device.type != "cpu" and n * max(n, width) <= bound:
        return n, width  # on a GPU, one launch is faster than half the work
    rows = n if n <= 256 else 192
    return max(1, min(rows, bound // n)), max(1, min(512, bound // n))


def _block_rows(embeddings: Tensor) -> int:
    """Rows per block for which a block in float64 and a product of two blocks stay far below the bound."""
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

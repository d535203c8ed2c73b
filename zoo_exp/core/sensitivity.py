"""Sensitivity S(i) of the projector's output to small changes of token i, by finite differences.

`zeroth_order_reference` is Algorithm 1 of ZOO-Prune as printed. `zeroth_order` computes the same values with less
work if the projector is a two-layer GELU MLP. `closed_form.closed_form` is their limit, without randomness.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.checks import check_features as check_features  # re-exported
from zoo_exp.core.memo import memo
from zoo_exp.errors import InvalidValueError

Projector = Callable[[Tensor], Tensor]
WORKSPACE_BYTES = 128 * 2**20
"""Maximum size of temporaries of one estimate, for any N, M and widths (at least one row is always computed)."""
CACHE_BYTES = 2 * 2**20
"""Target size of the temporaries of a block on a CPU (cache size)."""
TRIANGLE_FROM = 1024
"""Hidden width from which W2 is replaced by its triangular factor; below, one plain product is as fast."""


@dataclass(frozen=True, eq=False)
class MLP:
    """A two-layer projector: w2 gelu(w1 x + b1) + b2, weights laid out as in `torch.nn.Linear`.

    Attributes:
        w1: first layer [H, Dv].
        b1: its bias [H].
        w2: second layer [D, H].
        b2: its bias [D].
        approximate: "none" for the exact GELU (LLaVA), "tanh" for its approximation.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    approximate: str = "none"

    def __post_init__(self) -> None:
        """Check that the shapes of the four tensors match."""
        shapes = [tuple(t.shape) for t in (self.w1, self.b1, self.w2, self.b2)]
        if self.w1.ndim != 2 or self.w2.ndim != 2:
            raise InvalidValueError(f"an MLP needs w1 [H, Dv], b1 [H], w2 [D, H], b2 [D]; got {shapes}")
        hidden, out = self.w1.shape[0], self.w2.shape[0]
        if shapes[1] != (hidden,) or self.w2.shape[1] != hidden or shapes[3] != (out,):
            raise InvalidValueError(f"an MLP needs w1 [H, Dv], b1 [H], w2 [D, H], b2 [D]; got {shapes}")
        if self.approximate not in ("none", "tanh"):
            raise InvalidValueError(f"GELU approximation '{self.approximate}': allowed are none and tanh")

    def __call__(self, x: Tensor) -> Tensor:
        """Project x [..., Dv] -> [..., D], in the dtype of x."""
        hidden = F.linear(x, self.w1.to(x.dtype), self.b1.to(x.dtype))
        return F.linear(
            F.gelu(hidden, approximate=self.approximate), self.w2.to(x.dtype), self.b2.to(x.dtype)
        )

    @property
    def width(self) -> int:
        """Dv, the width of the input."""
        return self.w1.shape[1]


def draw_directions(
    n_directions: int, width: int, generator: torch.Generator, device: torch.device | None = None
) -> Tensor:
    """Draw random directions of unit length, shared by all tokens of an image.

    They are drawn on the generator's device (the CPU in this project), so they are the same for every device.

    Args:
        n_directions: M.
        width: Dv.
        generator: the only source of randomness.
        device: where they are needed; None for the generator's.

    Returns:
        Directions [M, Dv] in float32.

    Raises:
        InvalidValueError: `n_directions` is below 1.
    """
    if n_directions < 1:
        raise InvalidValueError(
            f"n_directions {n_directions}: at least one direction is needed (the paper uses 64)"
        )
    raw = torch.randn(n_directions, width, generator=generator, device=generator.device)
    unit: Tensor = raw / (raw.norm(dim=-1, keepdim=True) + 1e-12)
    return unit if device is None else unit.to(device, non_blocking=True)


def zeroth_order_reference(
    x: Tensor, project: Projector, directions: Tensor, step_size: float, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """S by Algorithm 1 as printed: mean over directions of |M(x + h u) - M(x - h u)| / 2h.

    Works for every projector [..., N, Dv] -> [..., N, D], including functions that mix tokens, such as the remaining
    layers of an encoder.

    Args:
        x: features [N, Dv].
        project: the projector M.
        directions: unit directions u [M, Dv].
        step_size: h, in units of the features.
        dtype: dtype of every step; float16 shows the effect of rounding away h u.

    Returns:
        S [N] in float32 (float64 with `dtype=float64`).

    Raises:
        InvalidValueError: invalid shapes, values or h.
    """
    _check(x, directions, step_size)
    x, directions = x.to(dtype), directions.to(dtype)
    total = torch.zeros(len(x), dtype=dtype, device=x.device)
    # Peak memory: six tensors of the input's width, plus the projector's own temporaries.
    step = max(1, WORKSPACE_BYTES // max(1, 6 * x.numel() * x.element_size()))
    for part in directions.split(step):
        shift = step_size * part[:, None]
        change = project(x + shift) - project(x - shift)
        total += (change.norm(dim=-1) / (2 * step_size)).sum(dim=0)
    mean = total / len(directions)
    return mean if dtype == torch.float64 else mean.float()


def zeroth_order(
    x: Tensor, mlp: Projector, directions: Tensor, step_size: float, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """S by finite differences along given directions, with the same values as the reference (1e-5 relative).

    For an `MLP`, W1 (x +- h u) = W1 x +- h W1 u: the first layer runs once per token and once per direction, the
    biases cancel, and W2 is applied only to the difference. Only the norm of the result is needed; with W2 = Q R it is
    the norm of R times the difference, which is half the work, because R is triangular. Other projectors, and half
    precision (where the rounding of x + h u matters), use the reference.

    Args:
        x: features [N, Dv].
        mlp: the projector; an `MLP` (or an object with an `MLP` as `.reduced`) uses the fast path.
        directions: unit directions [M, Dv].
        step_size: h, in units of the features.
        dtype: dtype of the computation: float32, float16, bfloat16 or float64.

    Returns:
        S [N] in float32 (float64 with `dtype=float64`).

    Raises:
        InvalidValueError: invalid shapes, values or h.
    """
    reduced = getattr(mlp, "reduced", mlp)
    if not isinstance(reduced, MLP) or dtype not in (torch.float32, torch.float64):
        return zeroth_order_reference(x, mlp, directions, step_size, dtype=dtype)
    _check(x, directions, step_size, reduced.width)
    w1, b1, w2 = reduced.w1.to(dtype), reduced.b1.to(dtype), reduced.w2.to(dtype)
    base = F.linear(x.to(dtype), w1, b1)
    shifts = F.linear(step_size * directions.to(dtype), w1)
    # Memory per row of a block: two shifted inputs, two activations and the output.
    row_bytes = base.element_size() * (4 * w1.shape[0] + w2.shape[0])
    rows = max(1, WORKSPACE_BYTES // row_bytes)
    if base.device.type == "cpu":
        # Blocks that fit in the cache: five times faster for the embedded model, twice for a 7B model.
        rows = min(rows, max(256, CACHE_BYTES // row_bytes))
    blocks = memo(reduced, ("blocks", dtype), lambda: _triangular_blocks(w2))
    m_step = min(len(shifts), max(1, rows // max(1, min(len(base), 256))))
    n_step = max(1, rows // m_step)
    out = []
    for tokens in base.split(n_step):
        total = torch.zeros(len(tokens), dtype=dtype, device=x.device)
        for part in shifts.split(m_step):
            change = F.gelu(tokens + part[:, None], approximate=reduced.approximate)
            change -= F.gelu(tokens - part[:, None], approximate=reduced.approximate)
            total += _lengths(change, blocks).sum(dim=0)
        out.append(total)
    return torch.cat(out) / (2 * step_size * len(directions))


def _triangular_blocks(w2: Tensor) -> list[tuple[int, Tensor]]:
    """Blocks (first column, rows of R from this column) of the triangular factor R of W2 [D, H], or W2 as one block."""
    hidden = w2.shape[1]
    if not w2.shape[0] >= hidden >= TRIANGLE_FROM:
        return [(0, w2)]
    triangle, step = torch.linalg.qr(w2, mode="r").R, max(1, hidden // 8)
    return [(a, triangle[a : a + step, a:].contiguous()) for a in range(0, hidden, step)]


def output_area(out: int, hidden: int) -> int:
    """Number of entries that replace W2 [D, H] in `zeroth_order`, for FLOPs formulas.

    Args:
        out: D.
        hidden: H.
    """
    if not out >= hidden >= TRIANGLE_FROM:
        return out * hidden
    step = max(1, hidden // 8)
    return sum(min(step, hidden - a) * (hidden - a) for a in range(0, hidden, step))


def _lengths(change: Tensor, blocks: list[tuple[int, Tensor]]) -> Tensor:
    """Norm of W2 times each change [..., H]."""
    if len(blocks) == 1:
        length: Tensor = F.linear(change, blocks[0][1]).norm(dim=-1)
        return length
    squares = [F.linear(change[..., start:], block).square().sum(dim=-1) for start, block in blocks]
    return torch.stack(squares).sum(dim=0).sqrt()


def _check(x: Tensor, directions: Tensor, step_size: float, width: int | None = None) -> None:
    check_features(x, width)
    if directions.ndim != 2 or len(directions) < 1 or directions.shape[1] != x.shape[1]:
        raise InvalidValueError(
            f"directions must be [M, {x.shape[1]}] with M of at least 1, got shape {tuple(directions.shape)}"
        )
    if not (math.isfinite(step_size) and step_size > 0):
        raise InvalidValueError(f"step_size {step_size}: must be a number above 0 (the paper uses 0.01)")

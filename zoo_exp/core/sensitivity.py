"""How strongly a token's output answers to small changes of its input: S(i) by finite differences.

`zeroth_order_reference` is Algorithm 1 of ZOO-Prune as printed; `zeroth_order` gives the same numbers with
less work where the projector is a two-layer GELU MLP. `closed_form.closed_form` is their limit
without randomness.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.checks import check_features as check_features  # others know it by this module
from zoo_exp.core.memo import memo
from zoo_exp.errors import InvalidValueError

Projector = Callable[[Tensor], Tensor]
WORKSPACE_BYTES = 128 * 2**20
"""Bound on the temporaries of one estimate, whatever N, M and the widths are (a single row always fits)."""
CACHE_BYTES = 2 * 2**20
"""What the temporaries of a block should fit in on a CPU."""
TRIANGLE_FROM = 1024
"""Hidden width from which W2 is replaced by its triangle; below, one plain product is as fast."""


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
        """Check that the four tensors fit each other."""
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
    """Draw M random directions of unit length [M, Dv] in float32, shared by all tokens of an image.

    They are drawn on the generator's device (a CPU in this project), so every device sees the same ones.

    Raises:
        InvalidValueError: `n_directions` below 1.
    """
    if n_directions < 1:
        raise InvalidValueError(
            f"n_directions {n_directions}: at least one direction is needed (the paper takes 64)"
        )
    raw = torch.randn(n_directions, width, generator=generator, device=generator.device)
    unit: Tensor = raw / (raw.norm(dim=-1, keepdim=True) + 1e-12)
    return unit if device is None else unit.to(device, non_blocking=True)


def zeroth_order_reference(
    x: Tensor, project: Projector, directions: Tensor, step_size: float, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """S by Algorithm 1 as printed: mean over directions of |M(x + h u) - M(x - h u)| / 2h.

    Works for every projector [..., N, Dv] -> [..., N, D], also one that mixes tokens (the rest of an
    encoder).

    Args:
        x: features [N, Dv].
        project: the projector M.
        directions: unit directions u [M, Dv].
        step_size: h, in units of the features.
        dtype: arithmetic of every step; float16 shows what rounding h u away does.

    Returns:
        S [N] in float32 (float64 if asked for).

    Raises:
        InvalidValueError: shapes, values or h out of range.
    """
    _check(x, directions, step_size)
    x, directions = x.to(dtype), directions.to(dtype)
    total = torch.zeros(len(x), dtype=dtype, device=x.device)
    # Six tensors as wide as the input live at a time; the projector's own temporaries come on top.
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
    """S by finite differences along given directions, with the same numbers as the reference (1e-5 relative).

    For an `MLP`, W1 (x +- h u) = W1 x +- h W1 u: the first layer runs once per token and once per direction,
    the biases cancel, and W2 meets only the difference. Only the length of what W2 gives is wanted, and with
    W2 = Q R that is the length of R times the difference: half the work, as R is triangular. Other projectors,
    and half precision (where the rounding of x + h u is the thing to look at), take the reference.

    Args:
        x: features [N, Dv].
        mlp: the projector; an `MLP` (or what offers one as `.reduced`) takes the fast path.
        directions: unit directions [M, Dv].
        step_size: h, in units of the features.
        dtype: arithmetic, float32 unless float16, bfloat16 or float64 is asked for.

    Returns:
        S [N] in float32 (float64 if asked for).

    Raises:
        InvalidValueError: shapes, values or h out of range.
    """
    reduced = getattr(mlp, "reduced", mlp)
    if not isinstance(reduced, MLP) or dtype not in (torch.float32, torch.float64):
        return zeroth_order_reference(x, mlp, directions, step_size, dtype=dtype)
    _check(x, directions, step_size, reduced.width)
    w1, b1, w2 = reduced.w1.to(dtype), reduced.b1.to(dtype), reduced.w2.to(dtype)
    base = F.linear(x.to(dtype), w1, b1)
    shifts = F.linear(step_size * directions.to(dtype), w1)
    # Per row of a block: two shifted inputs, two activations and the output.
    row_bytes = base.element_size() * (4 * w1.shape[0] + w2.shape[0])
    rows = max(1, WORKSPACE_BYTES // row_bytes)
    if base.device.type == "cpu":
        # Blocks that stay in the cache: five times faster at the embedded model's size, twice at a 7B's.
        rows = min(rows, max(256, CACHE_BYTES // row_bytes))
    stairs = memo(reduced, ("stairs", dtype), lambda: _stairs(w2))
    m_step = min(len(shifts), max(1, rows // max(1, min(len(base), 256))))
    n_step = max(1, rows // m_step)
    out = []
    for tokens in base.split(n_step):
        total = torch.zeros(len(tokens), dtype=dtype, device=x.device)
        for part in shifts.split(m_step):
            change = F.gelu(tokens + part[:, None], approximate=reduced.approximate)
            change -= F.gelu(tokens - part[:, None], approximate=reduced.approximate)
            total += _lengths(change, stairs).sum(dim=0)
        out.append(total)
    return torch.cat(out) / (2 * step_size * len(directions))


def _stairs(w2: Tensor) -> list[tuple[int, Tensor]]:
    """Blocks (first column, rows of R from that column on) of the triangle R of W2 [D, H], or W2 in one block."""
    hidden = w2.shape[1]
    if not w2.shape[0] >= hidden >= TRIANGLE_FROM:
        return [(0, w2)]
    triangle, step = torch.linalg.qr(w2, mode="r").R, max(1, hidden // 8)
    return [(a, triangle[a : a + step, a:].contiguous()) for a in range(0, hidden, step)]


def output_area(out: int, hidden: int) -> int:
    """Entries that stand in for W2 [D, H] in `zeroth_order`, for counting operations."""
    if not out >= hidden >= TRIANGLE_FROM:
        return out * hidden
    step = max(1, hidden // 8)
    return sum(min(step, hidden - a) * (hidden - a) for a in range(0, hidden, step))


def _lengths(change: Tensor, stairs: list[tuple[int, Tensor]]) -> Tensor:
    """Length of W2 times each change [..., H]."""
    if len(stairs) == 1:
        length: Tensor = F.linear(change, stairs[0][1]).norm(dim=-1)
        return length
    squares = [F.linear(change[..., start:], block).square().sum(dim=-1) for start, block in stairs]
    return torch.stack(squares).sum(dim=0).sqrt()


def _check(x: Tensor, directions: Tensor, step_size: float, width: int | None = None) -> None:
    check_features(x, width)
    if directions.ndim != 2 or len(directions) < 1 or directions.shape[1] != x.shape[1]:
        raise InvalidValueError(
            f"directions must be [M, {x.shape[1]}] with M of at least 1, got shape {tuple(directions.shape)}"
        )
    if not (math.isfinite(step_size) and step_size > 0):
        raise InvalidValueError(f"step_size {step_size}: must be a number above 0 (the paper takes 0.01)")

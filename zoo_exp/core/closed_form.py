"""Sensitivity without randomness: the root of E |J u|^2 over unit directions, which is |J|_F / sqrt(Dv).

It is the limit of the finite differences for h -> 0 and M -> infinity, up to the difference between the mean of a
length and the root of its mean square (below 0.1 % at real widths). No directions are drawn.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.memo import memo
from zoo_exp.core.sensitivity import MLP, WORKSPACE_BYTES, Projector, check_features
from zoo_exp.errors import InvalidValueError

KERNEL_BLOCK = 512
"""Rows of the symmetric kernel per product; smaller blocks compute less above the diagonal in more products."""


@dataclass(frozen=True, eq=False)
class PatchMerger:
    """Qwen2.5-VL's projector: RMSNorm of each patch, P patches side by side, then an MLP.

    Attributes:
        norm: weight of the RMSNorm [Dp].
        mlp: the MLP on the P concatenated patches, with w1 [H, P * Dp].
        eps: the RMSNorm's epsilon.
    """

    norm: Tensor
    mlp: MLP
    eps: float = 1e-6

    def __post_init__(self) -> None:
        """Check that a whole number of patches fits the MLP."""
        if self.norm.ndim != 1 or self.mlp.width % max(1, len(self.norm)):
            raise InvalidValueError(
                f"norm {tuple(self.norm.shape)} must be [Dp] with Dp dividing the width {self.mlp.width}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Project x [..., P * Dp] (patches before the norm, side by side) -> [..., D]."""
        patches = x.unflatten(-1, (-1, len(self.norm)))
        scale = torch.rsqrt(patches.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return self.mlp((self.norm * patches.float() * scale).to(x.dtype).flatten(-2))

    @property
    def width(self) -> int:
        """P * Dp, the width of the input."""
        return self.mlp.width


@runtime_checkable
class HasJacobian(Protocol):
    """A projector with a formula for the squared Frobenius norm of its Jacobian."""

    def jacobian_square(self, x: Tensor) -> Tensor:
        """|J|_F^2 of every row of x [N, W]: [N]."""
        ...


def closed_form(x: Tensor, mlp: Projector) -> Tensor:
    """S from the Jacobian's Frobenius norm, |J(x_i)|_F / sqrt(Dv).

    For an `MLP`, J = W2 diag(g) W1 with g = gelu'(W1 x + b1), so |J|_F^2 = g^T K g with K = (W2^T W2) o
    (W1 W1^T), which is computed once per MLP object: half an [H, H] product per token, as K is symmetric. A
    `PatchMerger` has one K per patch and a rank-one correction for its norm. For projectors with a method
    `jacobian_square` (`core.normed`) that method is used, and for all others `jacobian_norm`, which is exact and slow.

    Args:
        x: features [N, Dv].
        mlp: the projector.

    Returns:
        S [N] in float32.

    Raises:
        InvalidValueError: wrong shapes, or x contains NaN or infinity.
    """
    mlp = getattr(mlp, "reduced", mlp)
    if isinstance(mlp, MLP):
        check_features(x, mlp.width)
        slope = gelu_slope(F.linear(x.float(), mlp.w1.float(), mlp.b1.float()), mlp.approximate)
        square = _quadratic(slope, memo(mlp, "closed_form", lambda: _triangular_blocks(_mlp_kernel(mlp))))
    elif isinstance(mlp, PatchMerger):
        check_features(x, mlp.width)
        square = _merger_square(x.float(), mlp)
    elif isinstance(mlp, HasJacobian):
        check_features(x)
        square = mlp.jacobian_square(x).expand(len(x))
    else:
        return jacobian_norm(x, mlp)
    return square.clamp_min(0).sqrt() / math.sqrt(x.shape[1])


def jacobian_norm(x: Tensor, project: Projector) -> Tensor:
    """|J(x_i)|_F / sqrt(Dv) by automatic differentiation, for any projector that treats tokens one by one.

    Args:
        x: features [N, Dv].
        project: the projector, [..., Dv] -> [..., D].

    Returns:
        S [N] in float32.
    """
    check_features(x)
    if not len(x):
        return x.new_zeros(0, dtype=torch.float32)
    x, jacobian = x.float(), torch.func.vmap(torch.func.jacrev(project))
    # Peak memory: four tensors of the size of a token's Jacobian [D, Dv].
    chunk = max(1, WORKSPACE_BYTES // (16 * project(x[:1]).shape[-1] * x.shape[1]))
    squares = [jacobian(part).pow(2).sum(dim=(-2, -1)) for part in x.split(chunk)]
    return torch.cat(squares).sqrt() / math.sqrt(x.shape[1])


def first_order(x: Tensor, project: Projector, directions: Tensor) -> Tensor:
    """Mean over given directions of |J u|, by forward-mode differentiation.

    It is the limit of finite differences for h -> 0, and serves to verify the zeroth-order estimate. It is not a faster
    estimator.

    Args:
        x: features [N, Dv].
        project: the projector, [..., Dv] -> [..., D].
        directions: unit directions [M, Dv].

    Returns:
        S [N] in float32.

    Raises:
        InvalidValueError: shapes do not match, or features are not finite.
    """
    check_features(x)
    if directions.ndim != 2 or len(directions) < 1 or directions.shape[1] != x.shape[1]:
        raise InvalidValueError(f"directions must be [M, {x.shape[1]}], got shape {tuple(directions.shape)}")
    x, total = x.float(), x.new_zeros(len(x), dtype=torch.float32)
    for direction in directions.float():
        total += torch.func.jvp(project, (x,), (direction.expand_as(x).contiguous(),))[1].norm(dim=-1)
    return total / len(directions)


def gelu_slope(a: Tensor, approximate: str) -> Tensor:
    """Derivative of the GELU.

    Args:
        a: where [..., H].
        approximate: `none` or `tanh`, as in `torch.nn.functional.gelu`.

    Returns:
        Slopes [..., H].

    >>> gelu_slope(torch.tensor([0.0]), "none")
    tensor([0.5000])
    """
    if approximate == "none":
        exact: Tensor = torch.special.ndtr(a) + a * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
        return exact
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (a + 0.044715 * a**3))
    slope: Tensor = 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * c * (1 + 3 * 0.044715 * a * a)
    return slope


def _mlp_kernel(mlp: MLP) -> Tensor:
    """K = (W2^T W2) o (W1 W1^T) [H, H]."""
    w1, w2 = mlp.w1.float(), mlp.w2.float()
    return (w2.T @ w2).mul_(w1 @ w1.T)


def _triangular_blocks(kernel: Tensor) -> list[Tensor]:
    """Row blocks of the lower triangle of a symmetric kernel [H, H]; entries left of the diagonal block are doubled."""
    blocks = []
    for start in range(0, len(kernel), KERNEL_BLOCK):
        rows = kernel[start : start + KERNEL_BLOCK, : start + KERNEL_BLOCK].clone()
        rows[:, :start] *= 2
        blocks.append(rows)
    return blocks


def kernel_area(hidden: int) -> int:
    """Number of entries of a kernel [H, H] that are multiplied for one token, for FLOPs formulas."""
    return sum(
        min(KERNEL_BLOCK, hidden - start) * min(start + KERNEL_BLOCK, hidden)
        for start in range(0, hidden, KERNEL_BLOCK)
    )


def _quadratic(slope: Tensor, blocks: list[Tensor]) -> Tensor:
    """g^T K g [N] for each row g of slope [N, H]."""
    total = torch.zeros(len(slope), device=slope.device)
    for rows in blocks:
        start, stop = rows.shape[1] - rows.shape[0], rows.shape[1]
        total += (F.linear(slope[:, :stop], rows) * slope[:, start:stop]).sum(dim=-1)
    return total


def _merger_kernels(merger: PatchMerger) -> Tensor:
    """K_b = (W2^T W2) o (W1_b diag(w^2) W1_b^T) [P, H, H]."""
    w1, w2 = merger.mlp.w1.float(), merger.mlp.w2.float()
    scaled = (w1.unflatten(1, (-1, len(merger.norm))) * merger.norm.float()).transpose(0, 1)
    kernels: Tensor = (scaled @ scaled.transpose(1, 2)).mul_(w2.T @ w2)
    return kernels


def _merger_square(x: Tensor, merger: PatchMerger) -> Tensor:
    """|J|_F^2 [N] of a merger.

    J_b = A (I - a x_b x_b^T) / r_b with A = W2 diag(g) W1_b diag(w), r_b = rms(x_b) and a = 1 / (Dp r_b^2).
    """
    mlp, norm = merger.mlp, merger.norm.float()
    patches = x.unflatten(-1, (-1, len(norm)))
    energy = patches.pow(2).sum(-1)
    radius2 = energy / len(norm) + merger.eps
    inputs = (norm * patches * radius2.rsqrt()[..., None]).flatten(-2)
    slope = gelu_slope(F.linear(inputs, mlp.w1.float(), mlp.b1.float()), mlp.approximate)
    w1, w2 = mlp.w1.float().unflatten(1, (-1, len(norm))), mlp.w2.float()
    total = torch.zeros(len(x), device=x.device)
    kernels = memo(merger, "closed_form", lambda: [_triangular_blocks(k) for k in _merger_kernels(merger)])
    for b, blocks in enumerate(kernels):
        plain = _quadratic(slope, blocks)
        along = F.linear(slope * F.linear(norm * patches[:, b], w1[:, b]), w2).pow(2).sum(-1)
        a = 1 / (len(norm) * radius2[:, b])
        total += (plain - (2 * a - a * a * energy[:, b]) * along) / radius2[:, b]
    return total

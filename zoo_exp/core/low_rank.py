"""Low-rank projectors for computing the sensitivity."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.seeding import generator_for
from zoo_exp.core.sensitivity import MLP
from zoo_exp.errors import InvalidValueError

RELEASED_SPREAD = 0.02
"""Standard deviation with which the checkpoint loader initialises missing weights."""


@dataclass(frozen=True, eq=False)
class LowRankMLP:
    """An MLP whose two weight matrices are products of low-rank factors.

    Attributes:
        down1: second factor of the first layer [r, Dv]; its matrix is up1 @ down1.
        up1: first factor of the first layer [H, r].
        b1: its bias [H].
        down2: second factor of the second layer [r, H].
        up2: first factor of the second layer [D, r].
        b2: its bias [D].
        approximate: the GELU's kind, as in `MLP`.
    """

    down1: Tensor
    up1: Tensor
    b1: Tensor
    down2: Tensor
    up2: Tensor
    b2: Tensor
    approximate: str = "none"

    def __call__(self, x: Tensor) -> Tensor:
        """Project x [..., Dv] -> [..., D], in the dtype of x."""
        hidden = F.linear(F.linear(x, self.down1.to(x.dtype)), self.up1.to(x.dtype), self.b1.to(x.dtype))
        hidden = F.linear(F.gelu(hidden, approximate=self.approximate), self.down2.to(x.dtype))
        return F.linear(hidden, self.up2.to(x.dtype), self.b2.to(x.dtype))

    @property
    def width(self) -> int:
        """Dv, the width of the input."""
        return self.down1.shape[1]

    @cached_property
    def reduced(self) -> MLP:
        """An MLP of output width r with equal norms of output changes: R down2, where up2 = Q R with Q orthonormal."""
        r = torch.linalg.qr(self.up2.float(), mode="r").R
        w2 = r @ self.down2.float()
        return MLP(
            self.up1.float() @ self.down1.float(),
            self.b1.float(),
            w2,
            w2.new_zeros(len(w2)),
            self.approximate,
        )


def low_rank(mlp: MLP, rank: int) -> LowRankMLP:
    """Factorise both matrices of the *loaded* MLP by truncated SVD (the release factorises random ones).

    As in the release, the first factor is V_r and the second U_r diag(s_r) with the layer's bias.

    Args:
        mlp: the projector.
        rank: r, singular values to keep.

    Raises:
        InvalidValueError: the rank is below 1 or above the full rank of one of the matrices.
    """
    _check_rank(mlp, rank)
    (down1, up1), (down2, up2) = _factors(mlp.w1, rank), _factors(mlp.w2, rank)
    return LowRankMLP(down1, up1, mlp.b1.float(), down2, up2, mlp.b2.float(), mlp.approximate)


def as_released(mlp: MLP, rank: int, seed: int = 0) -> LowRankMLP:
    """The low-rank projector as the released code runs it: random factors with the shapes of the SVD factors.

    The checkpoint has no weights for this module, so the loader draws them from N(0, 0.02^2) and sets biases to 0
    (`llava_llama.py` of the release, 1d512b5f, built before the checkpoint is loaded). They depend only on the shapes
    and the seed, and are the same for all images. The released code draws new factors at every start, so results of
    one seed are one sample.

    Args:
        mlp: the projector, for its shapes.
        rank: r.
        seed: of the factors.

    Raises:
        InvalidValueError: the rank is below 1 or above the full rank of one of the matrices.
    """
    _check_rank(mlp, rank)
    source = (
        torch.Generator().manual_seed(rank) if seed == 0 else generator_for(seed, f"factors of rank {rank}")
    )
    device = mlp.w1.device
    (hidden, width), out = mlp.w1.shape, len(mlp.w2)

    def draw(*shape: int) -> Tensor:
        return (RELEASED_SPREAD * torch.randn(*shape, generator=source)).to(device)

    down1, up1, down2, up2 = draw(rank, width), draw(hidden, rank), draw(rank, hidden), draw(out, rank)
    zeros = torch.zeros
    return LowRankMLP(
        down1, up1, zeros(hidden, device=device), down2, up2, zeros(out, device=device), mlp.approximate
    )


def _check_rank(mlp: MLP, rank: int) -> None:
    full = min(*mlp.w1.shape, *mlp.w2.shape)
    if not 1 <= rank <= full:
        raise InvalidValueError(f"rank {rank}: allowed are 1 to {full}, the full rank of the smaller layer")


def _factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    return vh[:rank].contiguous(), (u[:, :rank] * s[:rank]).contiguous()

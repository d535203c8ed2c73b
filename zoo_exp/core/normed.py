"""Sensitivity of projectors with a normalisation in front: norm, then a linear layer or a two-layer MLP.

With x^ = (x - mean) / s and y = W2 act(W1 (w x^ + b)), the Jacobian is J = W2 diag(g) W1 diag(w) P / s, where
P = I - x^ x^^T / d - 1 1^T / d (the last term for LayerNorm only) and g = act'. So, with A = V^T V, V = W2 diag(g) W1
diag(w), and as x^ is orthogonal to 1,

    |J|_F^2 = (tr A - 1^T A 1 / d - (2 / d - |x^|^2 / d^2) x^^T A x^) / s^2,    tr A = g^T K g,
    K = (W2^T W2) o (W1 diag(w) (W1 diag(w))^T).

If a token consists of P patches that are normalised separately and concatenated (Qwen3-VL), the squares of the
patches add up. Without a norm, |J|_F^2 = tr A; for a single linear layer it is the same for every token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.checks import check_features
from zoo_exp.core.memo import memo
from zoo_exp.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm (`centred`) or RMSNorm of patches.

    Attributes:
        weight: scale [d].
        bias: shift [d], or None.
        eps: added to the variance or the mean square.
        centred: whether the mean is subtracted.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise patches.

        Args:
            x: rows [..., P * d].

        Returns:
            Normalised patches [..., P, d], and the root of their variance or mean square [..., P, 1].
        """
        patches = x.unflatten(-1, (-1, len(self.weight)))
        if self.centred:
            patches = patches - patches.mean(dim=-1, keepdim=True)
        size = (patches.pow(2).mean(dim=-1, keepdim=True) + self.eps).sqrt()
        return patches / size, size

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., P * d]."""
        out = self.split(x)[0] * self.weight
        return (out if self.bias is None else out + self.bias).flatten(-2)


@dataclass(frozen=True, eq=False)
class NormedMLP:
    """A projector of the form [norm,] linear [, activation, linear], in float32.

    Attributes:
        w1: first layer [H, W].
        b1: its bias [H], or None.
        norm: normalisation before the first layer, or None.
        act: elementwise activation, or None for one layer.
        w2: second layer [D, H], or None for one layer.
        b2: its bias [D], or None.
    """

    w1: Tensor
    b1: Tensor | None = None
    norm: Norm | None = None
    act: Callable[[Tensor], Tensor] | None = None
    w2: Tensor | None = None
    b2: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the shapes of the layers match."""
        fits = self.w1.ndim == 2 and (self.norm is None or self.width % len(self.norm.weight) == 0)
        if not fits or (self.w2 is None) != (self.act is None):
            raise InvalidValueError(
                "a projector needs w1 [H, W], a norm whose width divides W, and act with w2"
            )
        if self.w2 is not None and self.w2.shape[1] != len(self.w1):
            raise InvalidValueError(f"w2 {tuple(self.w2.shape)} does not fit w1 {tuple(self.w1.shape)}")

    @property
    def width(self) -> int:
        """W, the width of the input."""
        return self.w1.shape[1]

    @property
    def constant(self) -> bool:
        """Whether every token has the same sensitivity, as with a single linear layer."""
        return self.norm is None and self.w2 is None

    def __call__(self, x: Tensor) -> Tensor:
        """Project x [..., W] -> [..., D]."""
        given, x = x.dtype, x.float()
        hidden = F.linear(x if self.norm is None else self.norm(x), self.w1, self.b1)
        if self.act is not None and self.w2 is not None:
            hidden = F.linear(self.act(hidden), self.w2, self.b2)
        return hidden.to(given)

    def jacobian_square(self, x: Tensor) -> Tensor:
        """|J|_F^2 of every row of x [N, W]: [N]."""
        check_features(x, self.width)
        x = x.float()
        slope = self._slope(x)
        first, kernels = memo(self, "normed", self._constants)
        if self.norm is None:
            return self._trace(slope, kernels[0])
        normal, size = self.norm.split(x)
        d = len(self.norm.weight)
        total = torch.zeros(len(x), device=x.device)
        for p, (v, kernel) in enumerate(zip(first, kernels, strict=True)):
            one = normal[:, p]
            inside = self._trace(slope, kernel)
            inside = inside - (2 / d - one.pow(2).sum(-1) / d**2) * self._along(slope, F.linear(one, v))
            if self.norm.centred:
                inside = inside - self._along(slope, v.sum(dim=1)[None]) / d
            total += inside / size[:, p, 0].pow(2)
        return total

    def _slope(self, x: Tensor) -> Tensor | None:
        if self.act is None:
            return None
        return self.slope_at(F.linear(x if self.norm is None else self.norm(x), self.w1, self.b1))

    def slope_at(self, hidden: Tensor) -> Tensor:
        """Derivative of the activation at the hidden layer [N, H], for a projector of two layers."""
        assert self.act is not None
        with torch.inference_mode(False), torch.enable_grad():
            hidden = hidden.clone().requires_grad_()
            slope: Tensor = torch.autograd.grad(self.act(hidden).sum(), hidden)[0]
        return slope

    def _constants(self) -> tuple[list[Tensor], list[Tensor]]:
        """Per patch V1 = W1 diag(w) [H, d], and K [H, H] (one number [1] for one layer)."""
        if self.norm is None:
            first = [self.w1]
        else:
            first = [part * self.norm.weight for part in self.w1.split(len(self.norm.weight), dim=1)]
        if self.w2 is None:
            return first, [v.pow(2).sum()[None] for v in first]
        outer = self.w2.T @ self.w2
        return first, [outer * (v @ v.T) for v in first]

    def _trace(self, slope: Tensor | None, kernel: Tensor) -> Tensor:
        if slope is None:
            return kernel
        return (F.linear(slope, kernel) * slope).sum(dim=-1)

    def _along(self, slope: Tensor | None, hidden: Tensor) -> Tensor:
        """|V x|^2 from W1 diag(w) x [N, H]."""
        if slope is not None and self.w2 is not None:
            hidden = F.linear(slope * hidden, self.w2)
        return hidden.pow(2).sum(dim=-1)


def rowwise_jacobian_square(x: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """|J|_F^2 by automatic differentiation, for a projector that treats rows independently.

    One backward pass over all rows per output dimension: D times the cost of the projector.

    Args:
        x: rows [N, W].
        project: the projector, [N, W] -> [N, D].

    Returns:
        [N] in float32.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().float().requires_grad_()
        out = project(x)
        total = torch.zeros(len(x), device=x.device)
        for column in range(out.shape[-1]):
            (gradient,) = torch.autograd.grad(
                out[:, column].sum(), x, retain_graph=column + 1 < out.shape[-1]
            )
            total += gradient.pow(2).sum(dim=-1)
    return total.detach()

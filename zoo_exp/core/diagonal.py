"""Sensitivity from the projector's hidden layer alone: the diagonal of the closed form.

The closed form (`core.closed_form`) is S(i)^2 = g^T K g / Dv with K = (W2^T W2) o (W1 W1^T) and g = act'(W1 x + b1).
The entry K_kl multiplies two correlations between the neurons k and l, one of their output weights and one of their
input weights. For k != l both have either sign and are small in wide layers, so their sum is small compared with the
diagonal:

    S_diag(i)^2 = sum_k g_k^2 q_k / Dv,    q_k = |column k of W2|^2 |row k of W1|^2.

The weights q are computed once per model. The hidden layer W1 x + b1 exists when the projector has run, so the cost
per token is H multiplications, compared with H^2 / 2 for the closed form and M D H for finite differences.

Projectors with a norm in front, x^ = (x - mean) / s per patch p and V_p = W1_p diag(w) (`core.normed`):

    S_diag(i)^2 = sum_p sum_k g_k^2 |w2_k|^2 (|v_pk|^2 - (1^T v_pk)^2 / d) / s_p^2 / W

The term in 1^T v_pk belongs to the mean that LayerNorm subtracts; it depends on the weights only and is included (it
is absent for RMSNorm). Not included is the derivative of s_p, whose diagonal is

    |w2_k|^2 (v_pk . x^_p)^2 (2 / d - |x^_p|^2 / d^2):

it is at most a share cos^2(v_pk, x^_p) of neuron k's term, 1 / d on average over directions, and would cost as much as
the first layer. `agreement` measures what all of this amounts to on given features.
"""

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.closed_form import PatchMerger, closed_form, gelu_slope
from zoo_exp.core.memo import memo
from zoo_exp.core.normed import NormedMLP
from zoo_exp.core.sensitivity import MLP, Projector, check_features
from zoo_exp.errors import InvalidValueError

AGREEMENT = 0.99
"""Smallest rank correlation with the closed form at which the diagonal replaces it."""
BLOCK = 2**17
"""Hidden values per block of tokens: about half a megabyte per temporary, which a CPU core's cache holds."""
_MEASURED: "weakref.WeakKeyDictionary[object, float]" = weakref.WeakKeyDictionary()


def has_diagonal(mlp: object) -> bool:
    """Whether a projector has the two layers that the diagonal form needs."""
    mlp = getattr(mlp, "reduced", mlp)
    return isinstance(mlp, MLP | PatchMerger) or (isinstance(mlp, NormedMLP) and mlp.w2 is not None)


def diagonal(x: Tensor, mlp: Projector, hidden: Tensor | None = None) -> Tensor:
    """S from the diagonal of the closed form.

    Args:
        x: features [N, Dv].
        mlp: the projector: an `MLP`, a `PatchMerger` or a `NormedMLP` of two layers.
        hidden: its hidden layer before the activation [N, H], if it was captured; None computes it.

    Returns:
        S [N] in float32.

    Raises:
        InvalidValueError: another kind of projector, wrong shapes, or x contains NaN or infinity.
    """
    layers: Any = getattr(mlp, "reduced", mlp)
    if not has_diagonal(layers):
        raise InvalidValueError(
            "estimator=diagonal requires a projector of two linear layers with an activation between them: use "
            "estimator=closed_form"
        )
    check_features(x, layers.width)
    if hidden is not None and hidden.shape[:-1] != x.shape[:-1]:
        raise InvalidValueError(
            f"hidden layer {tuple(hidden.shape)}: expected {len(x)} rows, as many as tokens"
        )
    x = x.float()
    weights: Tensor = memo(layers, "diagonal", lambda: _constants(layers))
    energy = _energy(x, layers, hidden, weights)
    square = (energy * _inverse_scale(x, layers)).sum(dim=-1)
    return (square.clamp_min(0) / x.shape[1]).sqrt()


def agreement(x: Tensor, mlp: Projector) -> float:
    """Spearman's rank correlation of the diagonal with the closed form.

    Args:
        x: features [N, Dv].
        mlp: the projector.
    """
    ranks = [score.argsort().argsort().double() for score in (diagonal(x, mlp), closed_form(x, mlp))]
    a, b = (rank - rank.mean() for rank in ranks)
    return float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-12))


def calibrate(x: Tensor, mlp: Projector) -> float:
    """Measure `agreement` once per projector object, for `replaces_closed_form`.

    Args:
        x: features [N, Dv].
        mlp: the projector.
    """
    if mlp not in _MEASURED:
        record_agreement(mlp, agreement(x, mlp))
    return _MEASURED[mlp]


def record_agreement(mlp: Projector, measured: float) -> None:
    """Let `replaces_closed_form` decide about `mlp` by an `agreement` that was `measured` before."""
    _MEASURED[mlp] = measured


def replaces_closed_form(mlp: Projector) -> bool:
    """False if `calibrate` measured a rank correlation below `AGREEMENT`; True also for projectors not measured."""
    return _MEASURED.get(mlp, 1.0) >= AGREEMENT


def slopes(x: Tensor, mlp: Any, hidden: Tensor | None = None) -> Tensor:
    """Derivative of the activation at the hidden layer.

    Args:
        x: features [N, Dv].
        mlp: the projector.
        hidden: the hidden layer before the activation [N, H]; None computes it.

    Returns:
        Slopes [N, H] in float32.
    """
    if hidden is None:
        hidden = first_layer(x, mlp)
    if isinstance(mlp, NormedMLP):
        return mlp.slope_at(hidden.float())
    inner = mlp.mlp if isinstance(mlp, PatchMerger) else mlp
    return gelu_slope(hidden.float(), inner.approximate)


def first_layer(x: Tensor, mlp: Any) -> Tensor:
    """The hidden layer before the activation.

    Args:
        x: features [N, Dv].
        mlp: the projector.

    Returns:
        [N, H].
    """
    if isinstance(mlp, NormedMLP):
        return F.linear(x if mlp.norm is None else mlp.norm(x), mlp.w1, mlp.b1)
    inner = mlp
    if isinstance(mlp, PatchMerger):
        patches = x.unflatten(-1, (-1, len(mlp.norm)))
        scale = torch.rsqrt(patches.pow(2).mean(-1, keepdim=True) + mlp.eps)
        x, inner = (mlp.norm.float() * patches * scale).flatten(-2), mlp.mlp
    return F.linear(x, inner.w1.float(), inner.b1.float())


def _energy(x: Tensor, mlp: Any, hidden: Tensor | None, weights: Tensor) -> Tensor:
    """sum_k g_k^2 q_k [N, P], in blocks of tokens: a dozen elementwise passes over [N, H] would go to memory."""
    if hidden is None:
        hidden = first_layer(x, mlp)
    rows = len(x) if x.device.type != "cpu" else max(1, BLOCK // hidden.shape[-1])
    if len(x) <= rows:
        return slopes(x, mlp, hidden).square() @ weights.T
    parts = zip(x.split(rows), hidden.split(rows), strict=True)
    return torch.cat([slopes(part, mlp, inner).square() @ weights.T for part, inner in parts])


def _constants(mlp: Any) -> Tensor:
    """The weights q of every patch [P, H]."""
    if isinstance(mlp, MLP):
        return (mlp.w2.float().square().sum(dim=0) * mlp.w1.float().square().sum(dim=1))[None]
    if isinstance(mlp, PatchMerger):
        width, centred = len(mlp.norm), False
        rows = mlp.mlp.w1.float().unflatten(1, (-1, width)) * mlp.norm.float()
        out = mlp.mlp.w2
    else:
        width = mlp.width if mlp.norm is None else len(mlp.norm.weight)
        centred = mlp.norm is not None and mlp.norm.centred
        rows = mlp.w1.float().unflatten(1, (-1, width))
        rows = rows if mlp.norm is None else rows * mlp.norm.weight.float()
        out = mlp.w2
    lengths = rows.square().sum(dim=-1)  # [H, P]
    if centred:
        lengths = lengths - rows.sum(dim=-1).square() / width
    weights: Tensor = lengths * out.float().square().sum(dim=0)[:, None]
    return weights.T.contiguous()


def _inverse_scale(x: Tensor, mlp: Any) -> Tensor:
    """1 / s^2 of every patch [N, P]; [1, 1] without a norm."""
    square = x.new_ones(1, 1)
    if isinstance(mlp, PatchMerger):
        square = x.unflatten(-1, (-1, len(mlp.norm))).square().mean(dim=-1) + mlp.eps
    elif isinstance(mlp, NormedMLP) and mlp.norm is not None:
        square = mlp.norm.split(x)[1].squeeze(-1).square()
    return square.reciprocal()

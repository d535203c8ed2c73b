"""Closed forms of projectors that are a chain of a norm, a linear layer, an activation and a linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.core.normed import Norm, NormedMLP
from zoo_exp.models.kernel_store import kept_on_disk

_CLOSE = 1e-4


@torch.no_grad()
def read_chain(tail: Any, features: Tensor) -> NormedMLP | None:
    """The weights behind a `Tail`, or None where its modules are no such chain.

    Args:
        tail: of the projector.
        features: what it read in one run [n, W].
    """
    leaves: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            leaves.append((module, args[0], output))

    handles = [m.register_forward_hook(note) for m in tail.module.modules() if not next(m.children(), None)]
    try:
        out = tail(features.float())
    finally:
        for handle in handles:
            handle.remove()
    chain, value = [], features.float()
    for module, given, output in leaves:
        if _same(given, value):
            chain.append(module)
            value = output
        elif chain:
            return None
    loose = _loose_weight(tail.module, value, out) if not _same(value, out) else None
    if loose is None and not _same(value, out):
        return None
    made = _made_of(chain, loose)
    return made if made is not None and _same(made(features.float()), out) else None


def _made_of(chain: list[nn.Module], loose: Tensor | None) -> NormedMLP | None:
    rest = [m for m in chain if not isinstance(m, nn.Dropout | nn.Identity)]
    norm = _norm(rest.pop(0)) if rest and _is_norm(rest[0]) else None
    linears = [m for m in rest if isinstance(m, nn.Linear)]
    if not all(
        type(m) is nn.Linear and m.weight.is_floating_point() and not m.weight.is_meta for m in linears
    ):
        return None
    if loose is not None:
        return NormedMLP(loose.float(), None, norm) if not rest else None
    layers = [_pair(m) if isinstance(m, nn.Linear) else m for m in rest]
    for i in range(len(layers) - 1, 0, -1):  # two linear layers in a row are one (Mistral 3)
        before, after = layers[i - 1], layers[i]
        if isinstance(before, tuple) and isinstance(after, tuple):
            layers[i - 1 : i + 1] = [_composed(before, after)]
    if len(layers) == 1 and isinstance(layers[0], tuple):
        return NormedMLP(*layers[0], norm)
    if len(layers) == 3 and isinstance(layers[0], tuple) and isinstance(layers[2], tuple):
        act = layers[1]
        if isinstance(act, nn.Module) and not list(act.parameters()):
            return kept_on_disk(NormedMLP(*layers[0], norm, act, *layers[2]))
    return None


def _pair(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return layer.weight.detach().float(), _float(layer.bias)


def _composed(
    first: tuple[Tensor, Tensor | None], second: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    (w1, b1), (w2, b2) = first, second
    moved = None if b1 is None else w2 @ b1
    return w2 @ w1, b2 if moved is None else moved if b2 is None else moved + b2


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.endswith(
        ("RMSNorm", "LayerNorm")
    )


def _norm(module: Any) -> Norm | None:
    """The norm, with the weight that it really applies (Gemma's is 1 + w)."""
    stored = getattr(module, "weight", None)
    if stored is None:
        return None
    centred = not type(module).__name__.endswith("RMSNorm")
    eps = next(
        (float(e) for n in ("eps", "variance_epsilon") if (e := getattr(module, n, None)) is not None), 1e-6
    )
    x = torch.randn(len(stored), generator=torch.Generator().manual_seed(0)).to(stored.device)
    bias = _float(getattr(module, "bias", None))
    out = module(x[None].to(stored.dtype))[0].float()
    for weight in (stored.detach().float(), 1 + stored.detach().float()):
        norm = Norm(weight, bias, eps, centred)
        if _same(norm(x), out):
            return norm
    return None


def _loose_weight(module: nn.Module, value: Tensor, out: Tensor) -> Tensor | None:
    """A matrix that the module multiplies with outside of any layer, laid out as in `nn.Linear` (Gemma 3)."""
    for weight in module.parameters(recurse=False):
        if weight.ndim == 2 and value.shape[-1] == len(weight):
            rows = value.reshape(-1, value.shape[-1]).float()
            if _same(rows @ weight.float(), out):
                return weight.float().T.contiguous()
    return None


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float()


def _same(one: Tensor, other: Tensor) -> bool:
    if one.numel() != other.numel():
        return False
    a, b = one.float().flatten(), other.float().flatten()
    return float((a - b).abs().max()) <= _CLOSE * max(1e-6, float(b.abs().max()))

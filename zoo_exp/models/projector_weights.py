"""`ProjectorWeights`: the weights of a two-layer projector, read once per state."""

from typing import Any

import torch
from torch import nn

from zoo_exp.core.sensitivity import MLP
from zoo_exp.models.kernel_store import kept_on_disk
from zoo_exp.models.offloaded import is_offloaded, loaded_copy

_GELU = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}


class ProjectorWeights:
    """The weights of a two-layer projector as one `MLP` per state, so that derived values can be cached.

    Args:
        first: first linear layer.
        second: second linear layer.
        activation: name of the activation between them, as in the configuration.
    """

    def __init__(self, first: nn.Module, second: nn.Module, activation: str) -> None:
        self._layers: tuple[Any, Any] = (first, second)
        self._approximate = _GELU.get(activation)
        self._state: tuple[object, ...] = ()
        self._mlp: MLP | None = None

    def mlp(self) -> MLP | None:
        """The weights in float32, or None unless they are plain linear layers with a GELU between them."""
        if self._approximate is None or not all(_is_plain(layer) for layer in self._layers):
            return None
        # The parameters of an offloaded layer stay the same between calls: its weights are read once.
        state = tuple(_state(p) for layer in self._layers for p in layer.parameters())
        if self._mlp is None or state != self._state:
            tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
            layers: Any = map(loaded_copy, self._layers)
            for layer in layers:
                weight = layer.weight.detach().float()
                bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
                tensors.append((weight, bias))
            (w1, b1), (w2, b2) = tensors
            self._mlp = kept_on_disk(MLP(w1, b1, w2, b2, approximate=self._approximate))
            self._state = state
        return self._mlp


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is neither quantised, nor a subclass with its own forward, and has weights."""
    plain = type(layer) is nn.Linear and layer.weight.is_floating_point()
    return plain and (not layer.weight.is_meta or is_offloaded(layer))


def _state(parameter: torch.Tensor) -> tuple[object, ...]:
    version = None if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), parameter.device, parameter.dtype, version

"""The weights of a two-layer projector, read once per state of the model."""

from typing import Any

import torch
from torch import nn

from zoo_exp.core.sensitivity import MLP

_GELU = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}


class ProjectorWeights:
    """Makes one `MLP` per state of the weights, so that what selectors derive from it is computed once too."""

    def __init__(self, first: nn.Module, second: nn.Module, activation: str) -> None:
        self._layers: tuple[Any, Any] = (first, second)
        self._approximate = _GELU.get(activation)
        self._state: tuple[object, ...] = ()
        self._mlp: MLP | None = None

    def mlp(self) -> MLP | None:
        """The weights in float32, or None where they are no plain linear layers with a GELU between them."""
        if self._approximate is None or not all(_is_plain(layer) for layer in self._layers):
            return None
        state = tuple(_state(p) for layer in self._layers for p in layer.parameters())
        if self._mlp is None or state != self._state:
            tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
            for layer in self._layers:
                weight = layer.weight.detach().float()
                bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
                tensors.append((weight, bias))
            (w1, b1), (w2, b2) = tensors
            self._mlp = MLP(w1, b1, w2, b2, approximate=self._approximate)
            self._state = state
        return self._mlp


def _is_plain(layer: nn.Module) -> bool:
    """Neither quantised, nor a subclass with its own forward, nor offloaded."""
    return type(layer) is nn.Linear and layer.weight.is_floating_point() and not layer.weight.is_meta


def _state(parameter: torch.Tensor) -> tuple[object, ...]:
    version = None if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), parameter.device, parameter.dtype, version

"""Capture calls of modules with hooks, and compute attention from queries and keys."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Call:
    """One call of a module: inputs and output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def tensor(self) -> Tensor:
        """The output, or its first element if it is a tuple."""
        first: Tensor = self.output[0] if isinstance(self.output, tuple) else self.output
        return first


class Capture:
    """Context manager that records the last call of named modules in the current thread."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._handles: list[RemovableHandle] = []
        self.calls: dict[str, Call] = {}
        self.all: dict[str, list[Call]] = {}

    def __enter__(self) -> "Capture":
        """Register the hooks."""
        mine = threading.get_ident()
        for name, module in self._modules.items():

            def note(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object, name: str = name
            ) -> None:
                if threading.get_ident() == mine:
                    self.calls[name] = Call(args, kwargs, output)
                    self.all.setdefault(name, []).append(self.calls[name])

            self._handles.append(module.register_forward_hook(note, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __contains__(self, name: str) -> bool:
        """Whether the module of that name has run."""
        return name in self.calls

    def __getitem__(self, name: str) -> Call:
        """The last call of a module."""
        return self.calls[name]


def attention_rows(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Attention of selected query rows without a mask: softmax(q k^T * scale) in float32.

    Args:
        queries: query rows [..., R, H * d].
        keys: all rows [..., N, H * d].
        heads: H.
        scale: scale of the layer's logits.

    Returns:
        Probabilities [..., H, R, N]. Costs R N d per head, compared with N N d for the layer itself.
    """
    q, k = (t.view(*t.shape[:-1], heads, -1).transpose(-3, -2) for t in (queries, keys))
    weights: Tensor = (q @ k.transpose(-1, -2) * scale).softmax(dim=-1, dtype=torch.float32)
    return weights

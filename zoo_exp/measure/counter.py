"""Count the FLOPs that torch executes, including attention.

`torch.utils.flop_counter` does not support the CPU attention kernel or in-place `addmm`-like products, and older
versions fail for grouped queries. Here every attention kernel is counted by one formula: 2 B H n m (d + dv).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)


def count_flops(run: Callable[[], Any]) -> int:
    """FLOPs of all matrix products and convolutions in `run()` (1 multiply-add = 2 FLOPs).

    >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
    60
    """
    with counting() as counter:
        run()
    return int(counter.get_total_flops())


def counting() -> FlopCounterMode:
    """Counter for a `with` block; `get_total_flops()` returns the current sum."""
    return FlopCounterMode(display=False, custom_mapping={**_attention_kernels(), **_IN_PLACE})


def _attention_kernels() -> dict[Any, Callable[..., int]]:
    found = (getattr(torch.ops.aten, name, None) for name in _KERNELS)
    return {kernel: _attention for kernel in found if kernel is not None}


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Shapes [B, heads, rows, width]; causal attention is counted in full; grouped keys are used by all query heads."""
    batch, heads, rows, width = query
    return int(2 * batch * heads * rows * key[2] * (width + value[3]))


def _added_product(_: Any, left: Any, right: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    """Shapes [..., n, k] and [..., k, m]."""
    return int(2 * math.prod(left) * right[-1])


_IN_PLACE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _added_product,
    torch.ops.aten.baddbmm_: _added_product,
}

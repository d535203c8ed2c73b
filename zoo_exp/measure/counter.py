"""Count the FLOPs that torch really executes, attention included.

`torch.utils.flop_counter` does not know the attention kernel that runs on a CPU, and older versions refuse grouped
queries, so every attention kernel gets one formula here: 2 B H n m (d + dv). Nor does it know products that are added
to a tensor in place.
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
    """FLOPs of all matrix products and convolutions that `run()` executes; 1 multiply-add = 2 FLOP.

    >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
    60
    """
    with counting() as counter:
        run()
    return int(counter.get_total_flops())


def counting() -> FlopCounterMode:
    """A counter for a `with` block; `get_total_flops()` gives the sum so far."""
    return FlopCounterMode(display=False, custom_mapping={**_attention_kernels(), **_IN_PLACE})


def _attention_kernels() -> dict[Any, Callable[..., int]]:
    found = (getattr(torch.ops.aten, name, None) for name in _KERNELS)
    return {kernel: _attention for kernel in found if kernel is not None}


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Shapes [B, heads, rows, width]; causality is not halved, and grouped keys serve all query heads."""
    batch, heads, rows, width = query
    return int(2 * batch * heads * rows * key[2] * (width + value[3]))


def _added_product(_: Any, left: Any, right: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    """Shapes [..., n, k] and [..., k, m]."""
    return int(2 * math.prod(left) * right[-1])


_IN_PLACE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _added_product,
    torch.ops.aten.baddbmm_: _added_product,
}

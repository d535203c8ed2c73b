"""Small tensors made on the host for the device of others, without waiting for that device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(values: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Integers of the host on `device` (int64), in the order of the device's other work.

    `torch.tensor(values, device=...)` waits until everything queued on a GPU is done; this does not.

    Args:
        values: integers, or a tensor on the CPU [...], which keeps its type.
        device: where they are needed.
    """
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.int64)
    return tensor.to(device, non_blocking=True)

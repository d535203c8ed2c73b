"""The rest of Qwen2.5-VL's tower after a block, for one image of a packed batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_exp.models.capture import Call


def qwen_replay(
    visual: Any, calls: Sequence[Call], order: Tensor, first: int
) -> Callable[[int, Tensor], Tensor]:
    """The encoder after a block, as a function of that block's output.

    What comes out is the last block's output, which is the merger's input. Windows and images never share attention,
    so the other images of the batch do not matter.

    Args:
        visual: the tower.
        calls: of every block, for the whole batch.
        order: place in window order of each token of the image [N], counted from the image's first.
        first: place of the image's first token in the batch.

    Returns:
        Function (block number, hidden [..., N, 4 Dv]) -> [..., N, 4 Dv], both in the language model's order.
    """
    unit, count = visual.spatial_merge_unit, len(order)
    start, stop = first * unit, (first + count) * unit

    @torch.no_grad()
    def run(number: int, hidden: Tensor) -> Tensor:
        lead = hidden.shape[:-2]
        rows = hidden.reshape(-1, count, hidden.shape[-1]).to(calls[0].tensor.dtype)
        copies = len(rows)
        windowed = torch.empty_like(rows)
        windowed[:, order] = rows
        x = windowed.view(copies * count * unit, -1)
        for block, call in zip(visual.blocks[number:], calls[number:], strict=True):
            rest = {name: value for name, value in call.kwargs.items() if name != "hidden_states"}
            rest["cu_seqlens"] = _own_bounds(rest["cu_seqlens"], start, stop, copies)
            rest["position_embeddings"] = tuple(
                table[start:stop].repeat(copies, 1) for table in rest["position_embeddings"]
            )
            x = block(x, **rest)
        last: Tensor = x.view(copies, count, -1)[:, order]
        return last.reshape(*lead, count, -1).to(hidden.dtype)

    return run


def _own_bounds(bounds: Tensor, start: int, stop: int, copies: int) -> Tensor:
    """Bounds of attention [S] inside one image, for several copies of it behind each other."""
    own = bounds[(bounds >= start) & (bounds <= stop)] - start
    shifted = own[1:] + (stop - start) * torch.arange(copies, device=own.device, dtype=own.dtype)[:, None]
    return torch.cat([own[:1], shifted.flatten()])

"""Qwen2.5-VL's vision encoder: window order, attention, replay of its blocks, and cutting an image into patches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.capture import Call, Capture, attention_rows

_ATTENTION = frozenset({"received_attention", "keys"})
_QUERIES_AT_ONCE = 512
_OBJECT_LAYER = 16 / 32
"""HiPrune's object layer on this encoder, relative to its depth."""


class QwenEncoder:
    """Fields of `VisualTokens` from the encoder before the merger; a token is 2 x 2 patches."""

    def __init__(self, visual: Any) -> None:
        self.visual: Any = visual

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """Modules to capture for the given needs."""
        wanted: dict[str, nn.Module] = {}
        watched: set[int] = set()
        if needs & _ATTENTION:
            watched.add(self.deep_layer)
        if "object_attention" in needs:
            watched.add(self.object_layer)
        if "layer_attention" in needs:
            watched |= set(range(1, len(self.visual.blocks) + 1))
        for number in watched:
            attention = self.visual.blocks[number - 1].attn
            wanted |= {f"attention{number}": attention, f"qkv{number}": attention.qkv}
        if needs & {"hidden", "replay"}:
            wanted |= {f"block{i}": block for i, block in enumerate(self.visual.blocks)}
        return wanted

    @property
    def deep_layer(self) -> int:
        """Number of the last block with full attention, from 1."""
        return int(self.visual.fullatt_block_indexes[-1]) + 1

    @property
    def object_layer(self) -> int:
        """Number of HiPrune's object layer, from 1: 16 of 32."""
        return max(1, round(_OBJECT_LAYER * len(self.visual.blocks)))

    def language_order(self, grids: Tensor) -> Tensor:
        """Position in window order of every token in the language model's order."""
        from transformers.vision_utils import get_vision_window_index

        visual = self.visual
        window, _ = get_vision_window_index(
            grids,
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
            kwargs={},
        )
        return torch.argsort(window)

    def rows(
        self, capture: Capture, order: Tensor, sizes: list[int], needs: frozenset[str]
    ) -> dict[str, Sequence[Tensor]]:
        """Attention fields of `VisualTokens` by image, [N, ...] each."""
        found: dict[str, Sequence[Tensor]] = {}
        if "object_attention" in needs:
            found["object_attention"] = self.attention(capture, order, sizes, self.object_layer)[0]
        if needs & _ATTENTION:
            received, keys = self.attention(capture, order, sizes, self.deep_layer)
            found |= {k: v for k, v in (("received_attention", received), ("keys", keys)) if k in needs}
        return found

    def layer_attentions(
        self, capture: Capture, order: Tensor, sizes: list[int]
    ) -> list[Callable[[int], Tensor]]:
        """Attention that the tokens receive at a block, as a function of its number from 1, by image."""
        count = len(self.visual.blocks)

        def of(image: int) -> Callable[[int], Tensor]:
            def received(number: int) -> Tensor:
                if not 1 <= number <= count:
                    raise InvalidValueError(
                        f"encoder layer {number}: the vision encoder has {count}, give 1 to {count}"
                    )
                return self.attention(capture, order, sizes, number)[0][image]

            return received

        return [of(image) for image in range(len(sizes))]

    def hidden(self, capture: Capture, order: Tensor, sizes: list[int]) -> dict[int, Sequence[Tensor]]:
        """Outputs of the blocks, numbered from 1, by image: [N, 4 Dv] each."""
        return {
            i + 1: tokens_of(capture[f"block{i}"].tensor, order).split(sizes)
            for i in range(len(self.visual.blocks))
        }

    def replays(
        self, capture: Capture, order: Tensor, sizes: list[int]
    ) -> list[Callable[[int, Tensor], Tensor]]:
        """The rest of the encoder after a block, by image; see `qwen_replay`."""
        calls = [capture[f"block{i}"] for i in range(len(self.visual.blocks))]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            qwen_replay(self.visual, calls, mine - first, first)
            for mine, first in zip(order.split(sizes), starts, strict=True)
        ]

    def attention(
        self, capture: Capture, order: Tensor, sizes: list[int], number: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Attention that each token's patches receive at a block, and their rotated keys, image by image.

        Attention is computed over the whole image, also for blocks with window attention.
        """
        module, unit = self.visual.blocks[0].attn, self.visual.spatial_merge_unit
        heads = module.num_heads
        query, key, _ = capture[f"qkv{number}"].tensor.unflatten(-1, (3, heads, -1)).unbind(1)
        cos, sin = (t[:, None] for t in capture[f"attention{number}"].kwargs["position_embeddings"])
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        q, k = (tokens_of(t.flatten(1), order).unflatten(-1, (unit, -1)) for t in (query, key))
        received, keys, scale = [], [], (key.shape[-1]) ** -0.5
        for image_q, image_k in zip(q.split(sizes), k.split(sizes), strict=True):
            rows, columns = image_q.flatten(0, 1), image_k.flatten(0, 1)
            total = sum(
                attention_rows(part, columns, heads, scale).sum(dim=(0, 1))
                for part in rows.split(_QUERIES_AT_ONCE)
            )
            mean = torch.as_tensor(total) / (heads * len(rows))
            received.append(mean.view(-1, unit).mean(dim=1))
            keys.append(image_k.unflatten(-1, (heads, -1)).mean(dim=(1, 2)))
        return received, keys


def tokens_of(patches: Tensor, order: Tensor) -> Tensor:
    """Patches [4 N, Dv] in window order -> tokens [N, 4 Dv] in the language model's order."""
    return patches.reshape(len(order), -1)[order]


def qwen_replay(
    visual: Any, calls: Sequence[Call], order: Tensor, first: int
) -> Callable[[int, Tensor], Tensor]:
    """The encoder after a block, as a function of that block's output.

    The result is the last block's output, which is the merger's input. Windows and images never share attention, so
    the other images of the batch have no influence.

    Args:
        visual: the encoder.
        calls: of every block, for the whole batch.
        order: position in window order of each token of the image [N], relative to its first token.
        first: position of the image's first token in the batch.

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
    """Cumulative sequence lengths [S] of one image, for several consecutive copies."""
    own = bounds[(bounds >= start) & (bounds <= stop)] - start
    shifted = own[1:] + (stop - start) * torch.arange(copies, device=own.device, dtype=own.dtype)[:, None]
    return torch.cat([own[:1], shifted.flatten()])


def resized_patches(
    patches: Tensor, old: tuple[int, int], new: tuple[int, int], config: Any, merge: int
) -> Tensor:
    """Resize an image that the processor has already cut into patches.

    Args:
        patches: rows in the order of tokens, then of patches within them [h w, C t p p].
        old: rows and columns of the given patches.
        new: rows and columns of the result.
        config: the vision configuration.
        merge: patches on a token's side.

    Returns:
        Patches of the smaller image [h' w', C t p p].
    """
    channels, depth, p = config.in_channels, config.temporal_patch_size, config.patch_size
    h, w = old
    blocks = patches.view(h // merge, w // merge, merge, merge, channels, depth, p, p)
    image = blocks.permute(5, 4, 0, 2, 6, 1, 3, 7).reshape(depth, channels, h * p, w * p)
    rows, columns = new
    size = (rows * p, columns * p)
    small = F.interpolate(image.float(), size, mode="bicubic", antialias=True).to(patches.dtype)
    cells = small.view(depth, channels, rows // merge, merge, p, columns // merge, merge, p)
    return cells.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [n, H, d] in float32."""
    low, high = x.float().chunk(2, dim=-1)
    turned: Tensor = x.float() * cos.float() + torch.cat([-high, low], dim=-1) * sin.float()
    return turned.to(x.dtype)

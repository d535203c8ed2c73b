"""The packed forward pass of `embedded_qwen`: the same numbers as the stock classes, with fewer calls."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.packed_forward import Rope, decode_packed
from zoo_exp.embedded.world2.lexicon import (
    QWEN_PREFIX,
    TOKEN_ID_2,
    VISION_END,
)
from zoo_exp.embedded.world2.qwen_model import (
    FULL_ATTENTION,
    MERGE,
    VISION_HEADS_2,
    VISION_PATCH,
    VISION_THETA,
    VISION_WIDTH,
    WINDOW,
)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # an evaluation may ask first; the tensors are also used in training
def _layout(rows: int, cols: int) -> tuple[Tensor, Tensor, list[tuple[int, int]], Rope]:
    """How patches are grouped into windows.

    Args:
        rows: patches down.
        cols: patches across.

    Returns:
        Order of the patches (whole windows, equally shaped ones together); its inverse over tokens; number of
        windows and patches a window, per shape; cosine and sine of the rotary positions [1, patches, 1, head].
    """
    window = WINDOW // MERGE // VISION_PATCH
    token = torch.arange(rows // MERGE * (cols // MERGE)).view(rows // MERGE, cols // MERGE)
    shapes: dict[torch.Size, list[Tensor]] = {}
    for row in range(0, rows // MERGE, window):
        for col in range(0, cols // MERGE, window):
            part = token[row : row + window, col : col + window]
            shapes.setdefault(part.shape, []).append(part.flatten())
    groups = [(len(parts), MERGE**2 * len(parts[0])) for parts in shapes.values()]
    tokens = torch.cat([torch.cat(parts) for parts in shapes.values()])
    corner = torch.stack([tokens // (cols // MERGE), tokens % (cols // MERGE)], -1) * MERGE
    place = (corner[:, None] + torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).flatten(0, 1)
    head = VISION_WIDTH // VISION_HEADS_2
    frequency = VISION_THETA ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
    angle = (place[..., None].float() * frequency).flatten(1)
    angle = torch.cat([angle, angle], -1)[None, :, None]
    return place[:, 0] * cols + place[:, 1], tokens.argsort(), groups, (angle.cos(), angle.sin())


def encode_cells(visual: nn.Module, pixels: Tensor) -> Tensor:
    """What the merger reads, tokens in raster order [B, N, 4 Dv], from pixels [B, 3, H, W].

    Equal to the stock class, with one attention call for each shape of window instead of one for each window.
    """
    batch, _, height, width = pixels.shape
    p, rows, cols = VISION_PATCH, height // VISION_PATCH, width // VISION_PATCH
    order, back, groups, turn = _layout(rows, cols)
    order, back = order.to(pixels.device), back.to(pixels.device)
    cos, sin = (part.to(pixels.device) for part in turn)
    patches = (
        pixels.view(batch, 3, rows, p, cols, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * cols, -1)
    )
    x = patches[:, order] @ visual.patch_embed.proj.weight.sum(2).flatten(1).T
    for number, block in enumerate(visual.blocks):
        normed = _rms(x, block.norm1)
        q, k, v = block.attn.qkv(normed).unflatten(-1, (3, VISION_HEADS_2, -1)).unbind(2)
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        if number in FULL_ATTENTION:
            mixed = _attend(q, k, v)
        else:
            parts, start = [], 0
            for count, size in groups:
                stop = start + count * size
                own = (t[:, start:stop].unflatten(1, (count, size)).flatten(0, 1) for t in (q, k, v))
                parts.append(_attend(*own).reshape(batch, count * size, -1))
                start = stop
            mixed = torch.cat(parts, 1)
        x = x + block.attn.proj(mixed)
        hidden, mlp = _rms(x, block.norm2), block.mlp
        x = x + mlp.down_proj(functional.silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
    return x.view(batch, len(back), -1)[:, back]


def merge_cells(visual: nn.Module, cells: Tensor) -> Tensor:
    """The merger: cells [B, N, 4 Dv] to visual tokens [B, N, D]."""
    merger = visual.merger
    return merger.mlp(_rms(cells.unflatten(-1, (MERGE**2, -1)), merger.ln_q).flatten(-2))


def _rms(states: Tensor, norm: nn.Module) -> Tensor:
    return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed = functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return mixed.transpose(1, 2).flatten(2)


def m_rope(llm: Any, positions: Tensor) -> Rope:
    """Cosine and sine [B, 1, L, head] of positions [3, B, L] (time, row, column)."""
    angle = positions[..., None].float() * llm.rotary_emb.inv_freq
    sections = list(llm.rotary_emb.mrope_section)
    angle = torch.cat([part[i % 3] for i, part in enumerate(angle.split(sections, -1))], -1)
    angle = torch.cat([angle, angle], -1)[:, None]
    return angle.cos(), angle.sin()


def prefix_positions(rows: int, cols: int) -> tuple[Tensor, int]:
    """Positions of BOS, USER:, start, a raster of visual tokens, end [3, 1, L], and the first one behind them."""
    if rows * cols == 0:
        return torch.arange(2)[None, None].expand(3, 1, -1), 2
    n = len(QWEN_PREFIX)
    row, col = torch.arange(rows).repeat_interleave(cols), torch.arange(cols).repeat(rows)
    image = torch.stack([torch.zeros_like(row), row, col]) + n
    end = n + max(rows, cols)
    positions = torch.cat([torch.arange(n).expand(3, -1), image, torch.full((3, 1), end)], 1)
    return positions[:, None], end + 1


def qwen_text_forward(
    llm: Any,
    visual: Tensor,
    grid: tuple[int, int],
    text: tuple[Tensor, Tensor, Tensor],
    shift: int = 0,
    kept: Tensor | None = None,
    probe_after: int = 0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states of packed questions [B, L, D], and the visual tokens' states after a layer [B, N, D].

    Args:
        llm: the decoder.
        visual: visual tokens [B, K, D]; none at all leaves the image's marks out as well.
        grid: rows and columns of the whole raster.
        text: ids, segment and position [B, L] each.
        shift: gap between the image and the questions.
        kept: number of each token in the raster [B, K] where some are gone; they keep their positions.
        probe_after: number of the layer for the visual tokens' states (0: None).
        options: `rows` and `compute` of `decode_packed`.
    """
    ids, segment, position = text
    batch, blind = len(ids), visual.shape[1] == 0
    table = llm.embed_tokens
    start = table(torch.tensor([QWEN_PREFIX[:2] if blind else QWEN_PREFIX], device=ids.device)).expand(
        batch, -1, -1
    )
    places, first = prefix_positions(*((0, 0) if blind else grid))
    places = places.to(ids.device)
    prefix = start
    if not blind:
        end = table(torch.tensor([[TOKEN_ID_2[VISION_END]]], device=ids.device)).expand(batch, -1, -1)
        prefix = torch.cat([start, visual, end], 1)
    if kept is not None and not blind:
        n = len(QWEN_PREFIX)
        image = places[:, 0, n:-1][:, kept]  # [3, B, K]
        edges = places.expand(-1, batch, -1)
        places = torch.cat([edges[:, :, :n], image, edges[:, :, -1:]], 2)
    text_places = (first + shift + position)[None].expand(3, -1, -1)
    hidden, probed = decode_packed(
        llm,
        prefix,
        m_rope(llm, places),
        table(ids),
        m_rope(llm, text_places),
        segment,
        probe_after,
        **options,
    )
    return hidden, None if probed is None or blind else probed[:, len(QWEN_PREFIX) : -1]

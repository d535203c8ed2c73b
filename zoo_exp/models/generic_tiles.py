"""Tiles of generic families: which visual tokens of a prompt are those of one image.

Some families give one tensor per tile, others one per prompt. The prompt itself says what belongs together: the visual
tokens of a tile are next to each other, and so are the tiles of an image of InternVL. Idefics3 and SmolVLM write a
token of the row and column before every tile, and another one before the whole image, which comes last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens

ONE_RUN = ("got_ocr2", "internvl", "qianfan_ocr")
"""Types in whose prompts the tiles of an image follow each other without a token between them."""
WHOLE_LAST = ("idefics3", "smolvlm")
"""Types in whose prompts the whole image stands behind its tiles, after a token of its own."""
_ROWS = ("projected", "features", "preactivation")


def regrouped(
    family: str, ids: Tensor, image_token_id: int, images: Sequence[VisualTokens]
) -> list[VisualTokens]:
    """The images of one prompt from what a model gives per tile or per prompt; `tile` numbers their tiles from 0.

    Args:
        family: the model type.
        ids: the prompt [L].
        image_token_id: the placeholder.
        images: what the model gave for its placeholders, in order.

    Returns:
        The same visual tokens; unchanged for other types, and where the prompt does not fit them.
    """
    columns = (ids == image_token_id).nonzero().squeeze(1)
    if family not in (*ONE_RUN, *WHOLE_LAST) or not len(columns):
        return list(images)
    starts = [0, *((columns[1:] - columns[:-1] != 1).nonzero().squeeze(1) + 1).tolist()]
    ends = [*starts[1:], len(columns)]
    runs = [(start, end) for start, end in zip(starts, ends, strict=True)]
    if family in ONE_RUN:
        bounds = [0]
        for image in images:
            bounds.append(bounds[-1] + image.count)
        tiles = [[b for b in bounds if start <= b <= end] for start, end in runs]
        if any(t[:1] != [run[0]] or t[-1] != run[1] for t, run in zip(tiles, runs, strict=True)):
            return list(images)  # a tile in two runs: not how this family writes prompts
    else:
        before = [int(ids[columns[start] - 1]) if columns[start] else -1 for start in starts]
        tiles = []
        current: list[int] = []
        for (start, end), token in zip(runs, before, strict=True):
            current = [*current, start] if current else [start]
            if token == before[-1]:
                tiles.append([*current, end])
                current = []
    if [t.count for t in images] == [t[-1] - t[0] for t in tiles] and all(len(t) == 2 for t in tiles):
        return list(images)
    fields = _joined(images)
    return [_image(images[0], fields, t) for t in tiles]


def _joined(images: Sequence[VisualTokens]) -> Mapping[str, Tensor | None]:
    """Rows of all images together."""
    fields: dict[str, Tensor | None] = {}
    for name in _ROWS:
        rows = [getattr(image, name) for image in images]
        fields[name] = None if any(r is None for r in rows) else torch.cat(rows)
    levels = [image.deepstack for image in images if image.deepstack is not None]
    fields["deepstack"] = torch.cat(levels, dim=1) if len(levels) == len(images) else None
    return fields


def _image(like: VisualTokens, fields: Mapping[str, Tensor | None], bounds: Sequence[int]) -> VisualTokens:
    """One image from the rows of the prompt; `bounds` are the first rows of its tiles, and its end."""
    mine = slice(bounds[0], bounds[-1])
    own: dict[str, Any] = {n: None if v is None else v[mine] for n, v in fields.items() if n != "deepstack"}
    levels = fields["deepstack"]
    own["deepstack"] = None if levels is None else levels[:, mine]
    sizes = torch.tensor([end - start for start, end in pairwise(bounds)])
    tile = torch.arange(len(sizes)).repeat_interleave(sizes).to(like.device) if len(sizes) > 1 else None
    return replace(like, tile=tile, grid=_square(int(sizes[0])) if tile is None else None, **own)


def by_tile(image: VisualTokens) -> list[VisualTokens]:
    """The tiles of an image as images of their own; the image itself if it has one tile, or newlines."""
    if image.tile is None or bool((image.tile < 0).any()):
        return [image]
    sizes = image.tile.bincount().tolist()
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    fields = _joined([image])
    return [_image(image, fields, pair) for pair in pairwise(bounds)]


def _square(count: int) -> tuple[int, int] | None:
    side = math.isqrt(count)
    return (side, side) if side > 1 and side * side == count else None

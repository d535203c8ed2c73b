"""VisionZip on tiled images as released: every tile has its own CLS token and is split before cropping."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.merging import Merged
from zoo_exp.core.tokens import Tiles, VisualTokens
from zoo_exp.errors import InvalidValueError


def tile_budgets(tokens: VisualTokens, tiles: Tiles, budget: Budget, total: int) -> list[int]:
    """Number of tokens that each tile keeps.

    Args:
        tokens: the image.
        tiles: its tiles.
        budget: a budget per tile is a count, or a ratio of the whole tile including padding, as released.
        total: number of tokens of a budget per image; it is divided evenly, and the first tiles get one more.

    Raises:
        InvalidValueError: the budget exceeds the tokens of a tile, or the placeholders of the image.
    """
    n = len(tiles.images)
    if budget.per == "tile":
        counts = [budget.resolve(tile.count) for tile in tiles.images]
    else:
        counts = [total // n + (i < total % n) for i in range(n)]
    if budget.at_most:
        counts = [min(count, tokens.count // n) for count in counts]
    if sum(counts) > tokens.count:
        raise InvalidValueError(
            f"budget {budget} per tile gives {sum(counts)} tokens for {n} tiles, but the image has only "
            f"{tokens.count} placeholders: give at most {tokens.count // n} per tile"
        )
    return counts


def released_order(splits: Sequence[Merged | None], tiles: Tiles) -> Tensor:
    """The order in which the rows of the tiles enter the language model (visionzip/llava_arch.py of the release).

    First the base tile: CLS, dominant patches, contextual tokens. Then the dominant patches of all other tiles in the
    raster order of the whole image, then their CLS tokens, then their contextual tokens by tile.

    Args:
        splits: split of each tile; None for a tile without tokens.
        tiles: layout of the tiles.

    Returns:
        Row numbers [K] into the concatenated rows of all tiles, each in the order CLS, dominant, contextual.
    """
    device = tiles.source.device
    height, width = tiles.images[0].grid or (1, tiles.images[0].count)
    head: list[Tensor] = []
    dominant: list[Tensor] = []
    place: list[Tensor] = []
    cls: list[Tensor] = []
    contextual: list[Tensor] = []
    start = 0
    for number, split in enumerate(splits):
        if split is None:
            continue
        rows = start + torch.arange(1 + len(split.dominant) + len(split.targets), device=device)
        start += len(rows)
        if number == 0:
            head.append(rows)
            continue
        down, right = divmod(number - 1, tiles.grid[1])
        row, column = down * height + split.dominant // width, right * width + split.dominant % width
        cls.append(rows[:1])
        dominant.append(rows[1 : 1 + len(split.dominant)])
        contextual.append(rows[1 + len(split.dominant) :])
        place.append(row * tiles.grid[1] * width + column)
    if dominant:
        head.append(torch.cat(dominant)[torch.cat(place).argsort()])
    return torch.cat([*head, *cls, *contextual])


def slots(tokens: VisualTokens, tiles: Tiles, splits: Sequence[Merged | None]) -> Tensor:
    """Placeholder positions of the rows [K], ascending.

    A patch takes its own position. CLS tokens and cropped patches have none: they take the first free positions of
    their tile, or, if cropping left too few, of the image, newlines last.
    """
    taken = torch.zeros(tokens.count, dtype=torch.bool, device=tokens.device)
    per_tile, missing = tiles.images[0].count, 0
    tile = torch.where(tiles.source < 0, -1, tiles.source // per_tile)
    for number, split in enumerate(splits):
        if split is not None:
            patches = torch.cat([split.dominant, split.targets])
            mine = torch.isin(tiles.source, patches + number * per_tile)
            wanted = 1 + len(patches) - int(mine.sum())
            free = ((tile == number) & ~mine).nonzero().flatten()[:wanted]
            taken[free] = True
            taken |= mine
            missing += wanted - len(free)
    if missing:
        free = (~taken).nonzero().flatten()
        is_newline = (tile[free] < 0).to(torch.uint8)
        taken[free[is_newline.sort(stable=True).indices[:missing]]] = True
    return taken.nonzero().flatten()

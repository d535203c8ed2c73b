"""The image as the model saw it, and the grid cell of each visual token.

Processors crop, pad, resize and tile, so a mask over the original image would mark the wrong places. Pixels come from
the processor's tensors wherever these form an image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.generic_tiles import by_tile

CELL = 14  # pixels per token cell of a tiled image
GAP = 1  # empty columns between the base image and its tiles
BACK = (24, 24, 24)


@dataclass(frozen=True)
class Seen:
    """One image with its token grid.

    Attributes:
        image: the image as the model received it; the grid divides it evenly.
        grid: rows and columns of the grid.
        cells: cell of each visual token, row by row from 0; -1 for newline tokens, which have no place [N].
    """

    image: Image.Image
    grid: tuple[int, int]
    cells: NDArray[np.int64]

    def marked(self, indices: Tensor) -> list[int]:
        """Cells of some tokens, ascending."""
        cells = self.cells[indices.cpu().numpy()]
        return sorted(int(cell) for cell in cells if cell >= 0)


@dataclass(frozen=True)
class Layout:
    """How the visual tokens of an image lie: what `seen` needs to know of them, without the model.

    Attributes:
        count: number of tokens, N.
        grid: rows and columns, or None.
        tile: tile of each token as in `VisualTokens`, or None [N].
    """

    count: int
    grid: tuple[int, int] | None = None
    tile: Tensor | None = None

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """From the text of `layout_of`."""
        base, _, tiles = text.partition("+")
        sides = [int(side) for side in base.split("x")]
        if len(sides) == 1:
            return cls(sides[0])
        if not tiles:
            return cls(sides[0] * sides[1], (sides[0], sides[1]))
        rows, width = map(int, tiles.split("x"))
        row = torch.tensor([1] * width + [-1])
        tile = torch.cat([torch.zeros(sides[0] * sides[1], dtype=torch.long), row.repeat(rows)])
        return cls(len(tile), None, tile)


def layout_of(tokens: VisualTokens) -> str:
    """The layout as a short text: `ROWSxCOLUMNS`, `SIDExSIDE+ROWSxWIDTH` with joined tiles, or the number of tokens.

    Tiles without newlines are images of their own, separated by blanks.
    """
    if tokens.tile is not None and tokens.grid is None:
        tiles = by_tile(tokens)
        if len(tiles) > 1:
            return " ".join(map(layout_of, tiles))
        shape = _tiles(tokens.tile.cpu().numpy())
        return str(tokens.count) if shape is None else "{0}x{0}+{1}x{2}".format(*shape)
    if tokens.grid is None or tokens.grid[0] * tokens.grid[1] != tokens.count:
        return str(tokens.count)
    return f"{tokens.grid[0]}x{tokens.grid[1]}"


def seen(
    tokens: VisualTokens | Layout,
    original: Image.Image,
    inputs: Mapping[str, Any],
    number: int,
    processor: Any,
) -> Seen | None:
    """The image of some visual tokens as the model saw it; None if they form no grid.

    Args:
        tokens: visual tokens of the image.
        original: the image of the data set.
        inputs: the processor's tensors of the batch.
        number: index of the image in the batch.
        processor: provides the normalisation of the pixels; without it, colours are stretched.
    """
    pixels = inputs.get("pixel_values")
    if tokens.tile is not None and tokens.grid is None:
        tiles = by_tile(tokens) if isinstance(tokens, VisualTokens) else []  # of a family without newlines
        if len(tiles) > 1:
            return seen_all(tiles, original, inputs, processor, number)
        return _tiled(tokens.tile.cpu().numpy(), original, pixels, number, processor)
    if tokens.grid is None or tokens.grid[0] * tokens.grid[1] != tokens.count:
        return None
    cells = np.arange(tokens.count)
    if isinstance(pixels, Tensor) and pixels.ndim in (4, 5) and number < len(pixels):
        image = pixels[number] if pixels.ndim == 4 else pixels[number, 0]
        return Seen(_model_view(image, processor), tokens.grid, cells)
    # Flat patches: such a processor resizes the whole image to the grid without cropping.
    return Seen(original.convert("RGB"), tokens.grid, cells)


def _tiled(
    tile: NDArray[np.int64], original: Image.Image, pixels: object, number: int, processor: Any
) -> Seen | None:
    """The base image on the left, its joined tiles on the right, every token in a cell of the same size.

    Tokens of the base image come first, then the rows of the joined tiles, each ended by a newline token. The tiles
    show the original at a higher resolution, because padding has been removed.
    """
    shape = _tiles(tile)
    if shape is None:
        return None
    side, rows, width = shape
    base = side * side
    columns = side + (GAP + width if rows else 0)
    grid = max(side, rows), columns
    cells = np.full(len(tile), -1, np.int64)
    numbers = np.arange(base)
    cells[:base] = numbers // side * columns + numbers % side
    for row in range(rows):
        start = base + row * (width + 1)
        cells[start : start + width] = row * columns + side + GAP + np.arange(width)
    plain = original.convert("RGB")
    canvas = Image.new("RGB", (columns * CELL, grid[0] * CELL), BACK)
    left = plain
    if isinstance(pixels, Tensor) and pixels.ndim == 5 and number < len(pixels):
        left = _model_view(pixels[number, 0], processor)
    canvas.paste(left.resize((side * CELL, side * CELL)), (0, 0))
    if rows:
        canvas.paste(plain.resize((width * CELL, rows * CELL)), ((side + GAP) * CELL, 0))
    return Seen(canvas, grid, cells)


def _tiles(tile: NDArray[np.int64]) -> tuple[int, int, int] | None:
    """Side of the base image, and rows and width of the joined tiles (0, 0 without them); None for another order."""
    base = int((tile == 0).sum())
    side = round(base**0.5)
    rest = tile[base:]
    ends = np.flatnonzero(rest == -1)
    rows = len(ends)
    width = int(ends[0]) if rows else 0
    whole = rows > 0 and width > 0 and np.array_equal(ends, width + (width + 1) * np.arange(rows))
    if (
        side * side != base
        or (tile[:base] != 0).any()
        or (len(rest) and not (whole and len(rest) == ends[-1] + 1))
    ):
        return None
    return side, rows, width


def _model_view(pixels: Tensor, processor: Any) -> Image.Image:
    """Normalised pixels [3, H, W] as an image."""
    image_processor = getattr(processor, "image_processor", processor)
    plain = pixels.detach().to("cpu", torch.float32)
    if (
        processor is None
    ):  # how they were normalised is not known: the colours are stretched, the places are right
        plain = (plain - plain.amin()) / (plain.amax() - plain.amin()).clamp(min=1e-6)
    elif getattr(image_processor, "do_normalize", True):
        mean, std = (
            torch.tensor(getattr(image_processor, name, None) or default).view(-1, 1, 1)
            for name, default in (("image_mean", (0.0,)), ("image_std", (1.0,)))
        )
        plain = plain * std + mean
    values = (plain.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())


def seen_all(
    images: Sequence[VisualTokens | Layout],
    original: Image.Image,
    inputs: Mapping[str, Any],
    processor: Any,
    first: int = 0,
) -> Seen | None:
    """The view of one prompt with one image, whose tiles some families give as images of their own.

    Tiles are joined in reading order, in a raster as square as possible: where each lies in the original is known to
    the family's processor alone.

    Args:
        images: visual tokens of the prompt, by tile.
        original: the image that was asked about.
        inputs: the processor's tensors of the batch.
        processor: see `seen`.
        first: number of the prompt's first image in the batch.

    Returns:
        The view, whose `cells` continue from tile to tile; None if some tile forms no grid.
    """
    pixels = inputs.get("pixel_values")
    if isinstance(pixels, Tensor) and pixels.ndim == 5 and len(images) > 1:  # [1, tiles, 3, height, width]
        inputs = {**inputs, "pixel_values": pixels.flatten(0, 1) if len(pixels) == 1 else None}
    views = [seen(tokens, original, inputs, n, processor) for n, tokens in enumerate(images, first)]
    known = [view for view in views if view is not None]
    if not known or len(known) < len(views) or len({(v.grid, v.image.size) for v in known}) > 1:
        return None
    if len(known) == 1:
        return known[0]
    (rows, columns), (width, height) = known[0].grid, known[0].image.size
    across = math.ceil(math.sqrt(len(known)))
    down = math.ceil(len(known) / across)
    canvas = Image.new("RGB", (across * width, down * height), BACK)
    cells = []
    for number, view in enumerate(known):
        top, left = divmod(number, across)
        canvas.paste(view.image, (left * width, top * height))
        row, column = np.divmod(view.cells, columns)
        place = (top * rows + row) * across * columns + left * columns + column
        cells.append(np.where(view.cells < 0, -1, place))
    return Seen(canvas, (down * rows, across * columns), np.concatenate(cells))

"""The picture as the model saw it, and the cell of it that each visual token stands for.

A processor crops, pads, resizes and tiles: a mask drawn over the original would mark other places than the ones that
were kept. Pixels come from the processor's own tensors wherever these are an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens

CELL = 14  # pixels of a token's cell where tiles are put together
GAP = 1  # empty columns between the whole image and its tiles
BACK = (24, 24, 24)


@dataclass(frozen=True)
class Seen:
    """One image with its token raster.

    Attributes:
        picture: what the model saw; the raster divides it evenly.
        grid: rows and columns of the raster.
        cells: cell of each visual token, row by row from 0; -1 for a newline, which has no place [N].
    """

    picture: Image.Image
    grid: tuple[int, int]
    cells: NDArray[np.int64]

    def marked(self, indices: Tensor) -> list[int]:
        """Cells of some tokens, ascending."""
        cells = self.cells[indices.cpu().numpy()]
        return sorted(int(cell) for cell in cells if cell >= 0)


def seen(
    tokens: VisualTokens, original: Image.Image, inputs: Mapping[str, Any], number: int, processor: Any
) -> Seen | None:
    """The picture behind some visual tokens; None where they form no raster.

    Args:
        tokens: visual tokens of the image.
        original: the image as the data set has it.
        inputs: the processor's tensors of the batch.
        number: place of the image among those of the batch.
        processor: knows how pixels were normalised.
    """
    pixels = inputs.get("pixel_values")
    if tokens.tile is not None and tokens.grid is None:
        return _tiled(tokens.tile.cpu().numpy(), original, pixels, number, processor)
    if tokens.grid is None or tokens.grid[0] * tokens.grid[1] != tokens.count:
        return None
    cells = np.arange(tokens.count)
    if isinstance(pixels, Tensor) and pixels.ndim in (4, 5) and number < len(pixels):
        image = pixels[number] if pixels.ndim == 4 else pixels[number, 0]
        return Seen(_picture(image, processor), tokens.grid, cells)
    # Patches in a row: such a processor resizes the whole image to the raster, and crops nothing.
    return Seen(original.convert("RGB"), tokens.grid, cells)


def _tiled(
    tile: NDArray[np.int64], original: Image.Image, pixels: object, number: int, processor: Any
) -> Seen | None:
    """The whole image on the left, its tiles put together on the right, every token in a cell of the same size.

    Tokens of the whole image come first; behind them the rows of the joined tiles, each closed by a newline. What
    the tiles show is the original at a higher resolution, since padding has been cut off again.
    """
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
    columns = side + (GAP + width if rows else 0)
    grid = max(side, rows), columns
    cells = np.full(len(tile), -1, np.int64)
    numbers = np.arange(base)
    cells[:base] = numbers // side * columns + numbers % side
    for row in range(rows):
        start = base + row * (width + 1)
        cells[start : start + width] = row * columns + side + GAP + np.arange(width)
    plain = original.convert("RGB")
    picture = Image.new("RGB", (columns * CELL, grid[0] * CELL), BACK)
    left = plain
    if isinstance(pixels, Tensor) and pixels.ndim == 5 and number < len(pixels):
        left = _picture(pixels[number, 0], processor)
    picture.paste(left.resize((side * CELL, side * CELL)), (0, 0))
    if rows:
        picture.paste(plain.resize((width * CELL, rows * CELL)), ((side + GAP) * CELL, 0))
    return Seen(picture, grid, cells)


def _picture(pixels: Tensor, processor: Any) -> Image.Image:
    """Normalised pixels [3, H, W] as a picture."""
    image_processor = getattr(processor, "image_processor", processor)
    plain = pixels.detach().to("cpu", torch.float32)
    if getattr(image_processor, "do_normalize", True):
        mean, std = (
            torch.tensor(getattr(image_processor, name, None) or default).view(-1, 1, 1)
            for name, default in (("image_mean", (0.0,)), ("image_std", (1.0,)))
        )
        plain = plain * std + mean
    values = (plain.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())

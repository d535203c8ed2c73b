"""Kept tokens drawn over an image: dropped ones are dark, kept ones have an outline. numpy and Pillow only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo_exp.errors import InvalidValueError

OUTLINE = (255, 215, 94)
DARKENED = 0.28
"""Brightness of dropped tokens."""

Pixels = NDArray[np.uint8]


def kept_mask(indices: Sequence[int], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """True where a token is kept [rows, columns]; tokens are numbered row by row.

    Raises:
        InvalidValueError: an index outside the grid, or an empty grid.
    """
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise InvalidValueError(f"a token grid has at least one row and column, got {rows} x {columns}")
    mask = np.zeros(rows * columns, bool)
    outside = [index for index in indices if not 0 <= index < mask.size]
    if outside:
        raise InvalidValueError(
            f"kept token {outside[0]} lies outside the {rows} x {columns} grid: "
            f"allowed are 0 to {mask.size - 1}"
        )
    mask[list(indices)] = True
    return mask.reshape(rows, columns)


def darkened(pixels: Pixels) -> Pixels:
    """The image [height, width, 3] as dropped tokens are shown: dark and nearly grey."""
    shown = pixels.astype(np.float32)
    grey = shown.mean(axis=2, keepdims=True)
    return (DARKENED * (0.55 * shown + 0.45 * grey)).astype(np.uint8)


def overlay(pixels: Pixels, dark: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Show dropped tokens dark, and outline the kept ones.

    Args:
        pixels: the image [height, width, 3].
        dark: the same, `darkened`; an argument because all arms of a question share it.
        mask: True where a token is kept [rows, columns].

    Returns:
        A new image of the same size.
    """
    height, width = pixels.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    kept = mask[rows][:, columns]
    shown = np.where(kept[:, :, None], pixels, dark)
    if not mask.all():
        shown[outline(kept)] = OUTLINE
    return shown


def outline(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that touch the border between kept and dropped ones, or the border of the image on the kept side.

    Args:
        kept: True where a pixel belongs to a kept token [height, width].
    """
    framed = np.pad(kept, 1)
    edge = np.zeros_like(framed)
    across = framed[:, 1:] != framed[:, :-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    down = framed[1:] != framed[:-1]
    edge[1:] |= down
    edge[:-1] |= down
    return edge[1:-1, 1:-1]


def resized(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """The image [height, width, 3] at `size` (width, height); small images keep their sharp pixels."""
    factor = max(size) / max(image.size)
    method = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    return np.asarray(image.convert("RGB").resize(size, method))


def overlaid(
    image: Image.Image, indices: Sequence[int], grid: tuple[int, int], side: int = 480
) -> Image.Image:
    """One image with the kept tokens over it.

    Args:
        image: as the model saw it; the grid divides it evenly.
        indices: kept cells of the grid, numbered row by row.
        grid: rows and columns.
        side: longer side of the result in pixels; a larger image keeps its size.

    Raises:
        InvalidValueError: an index outside the grid, or an empty grid.
    """
    factor = max(1.0, side / max(image.size))
    pixels = resized(image, (round(image.width * factor), round(image.height * factor)))
    return Image.fromarray(overlay(pixels, darkened(pixels), kept_mask(indices, grid)))

"""Downsampling baseline: a smaller image instead of pruning."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class Resize(Selector):
    """Downsamples the image so that its number of visual tokens fits the budget.

    Of the token grids with at least 90 % of the largest possible area, the one with the nearest aspect ratio is used,
    so the count may be below the budget; records contain the actual count. `indices` are the tokens of the full grid
    at the centres of the cells of the smaller grid.
    """

    name: ClassVar[str] = "resize"
    paper: ClassVar[str] = "VTC-Bench's downsampling baseline (arXiv 2510.07143)"
    exact: ClassVar[bool] = False
    equivariant: ClassVar[bool] = False
    NEEDS: ClassVar[frozenset[str]] = frozenset({"resize"})

    def pick(
        self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator
    ) -> Selection:
        """Encode the smaller image."""
        if tokens.grid is None or tokens.pixels_encoder is None:
            raise InvalidValueError(
                "selector resize needs 'resize' and one grid per image: it does not support tiled images"
            )
        height, width = tokens.grid
        rows, columns = smaller_grid(height, width, k)
        merged = tokens.pixels_encoder((rows, columns))
        if len(merged) != rows * columns:
            raise InvalidValueError(
                f"the resized image has {len(merged)} visual tokens, not {rows} x {columns}"
            )
        y = sent([(2 * i + 1) * height // (2 * rows) for i in range(rows)], tokens.device)
        x = sent([(2 * i + 1) * width // (2 * columns) for i in range(columns)], tokens.device)
        return Selection((y[:, None] * width + x).flatten(), None, merged.to(tokens.projected.dtype))


def smaller_grid(height: int, width: int, k: int) -> tuple[int, int]:
    """Rows and columns of the grid with at most k cells whose aspect ratio is nearest to height x width."""
    grids = [(r, min(width, k // r)) for r in range(1, min(height, k) + 1)]
    largest = max(r * c for r, c in grids)
    wide = [(r, c) for r, c in grids if r * c >= 0.9 * largest]

    def distortion(grid: tuple[int, int]) -> tuple[float, int]:
        tall, flat = grid[0] * width, grid[1] * height
        return max(tall, flat) / min(tall, flat), -grid[0] * grid[1]

    return min(wide, key=distortion)

"""A regular grid of tokens."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class UniformGrid(Selector):
    """Keeps evenly spaced grid positions; rows are filled evenly when the count does not factorise.

    Without a known grid (several tiles together), keeps every N/K-th token of the sequence.
    """

    name: ClassVar[str] = "uniform_grid"
    paper: ClassVar[str] = "sanity baseline"
    equivariant: ClassVar[bool] = False

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Choose k positions that depend only on the shape of the image."""
        n = tokens.count
        if tokens.grid is None or tokens.grid[0] * tokens.grid[1] != n:
            return sent(_centres(n, k), tokens.device)
        height, width = tokens.grid
        # The number of rows for equal spacing in both directions, but enough for k tokens in rows of
        # `width` columns.
        rows = min(height, k, max(math.ceil(k / width), round(math.sqrt(k * height / width))))
        counts = [(i + 1) * k // rows - i * k // rows for i in range(rows)]
        places = [
            row * width + column
            for row, count in zip(_centres(height, rows), counts, strict=True)
            for column in _centres(width, count)
        ]
        return sent(places, tokens.device)

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """No matrix product."""
        return 0


def _centres(n: int, k: int) -> list[int]:
    """Compute k distinct positions in 0..n-1, at the centres of k equal intervals."""
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]

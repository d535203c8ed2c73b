"""FLOPs formulas (1 multiply-add = 2 FLOPs)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo_exp.core.tokens import VisualTokens


def linear(rows: int, inputs: int, outputs: int) -> int:
    """FLOPs of vectors times a matrix [inputs, outputs]; a multiplication and an addition count as two.

    Args:
        rows: number of vectors.
        inputs: their width.
        outputs: width of the results.

    >>> linear(2, 3, 5)
    60
    """
    return 2 * rows * inputs * outputs


@dataclass(frozen=True)
class Encoding:
    """FLOPs of the vision encoder and the projector for some images.

    Attributes:
        encoder: FLOPs of the vision encoder.
        projector: FLOPs of the projector.
    """

    encoder: int = 0
    projector: int = 0

    @property
    def total(self) -> int:
        """FLOPs of encoder and projector."""
        return self.encoder + self.projector


class VisionCosts(Protocol):
    """FLOPs of a family's vision encoder and projector, from the model's configuration."""

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """Exact FLOPs for these images."""
        ...

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """FLOPs of computing the attention weights that selectors need; fused kernels do not return them.

        Args:
            images: visual tokens of the images.
            needs: fields that selectors need.
        """
        ...

    def guess(self, n_visual: int) -> Encoding:
        """FLOPs for images with a total of `n_visual` visual tokens, estimated from this number only."""
        ...

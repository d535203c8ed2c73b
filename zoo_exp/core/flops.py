"""FLOPs by formula: 1 multiply-add = 2 FLOPs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from zoo_exp.core.tokens import VisualTokens


def linear(rows: int, inputs: int, outputs: int) -> int:
    """FLOPs of `rows` vectors of width `inputs` times a matrix [inputs, outputs].

    >>> linear(2, 3, 5)
    60
    """
    return 2 * rows * inputs * outputs


@dataclass(frozen=True)
class Encoding:
    """FLOPs of turning images into visual tokens: the vision encoder, and the projector after it."""

    encoder: int = 0
    projector: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.encoder + self.projector


class VisionCosts(Protocol):
    """FLOPs of a family's vision encoder and projector, from the model's configuration."""

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """The exact cost of these images."""
        ...

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """The cost of attention weights that selectors read: fused kernels do not return them."""
        ...

    def guess(self, n_visual: int) -> Encoding:
        """The cost of images with `n_visual` visual tokens together, estimated from that count alone."""
        ...

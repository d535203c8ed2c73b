"""Scores that several arms share: arms which differ in fusion or budget only rate the tokens once."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class Rating:
    """Scores of some images.

    Attributes:
        scores: one [N] per image, or None from rules without scores.
        states: the generators' states after rating, from which each arm goes on.
        milliseconds: what the rating took; every arm that uses it would have paid it alone.
    """

    scores: list[Tensor | None]
    states: list[Tensor]
    milliseconds: float

    def generators(self) -> list[torch.Generator]:
        """Fresh generators in the states that rating left."""
        fresh = [torch.Generator() for _ in self.states]
        for generator, state in zip(fresh, self.states, strict=True):
            generator.set_state(state)
        return fresh


class Ratings:
    """The ratings of one batch, by what decides them.

    Args:
        synchronise: waits for the device, so that times are its times.
    """

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.synchronise = synchronise
        self.known: dict[Hashable, Rating] = {}

    def rate(
        self,
        selector: Selector,
        images: Sequence[VisualTokens],
        generators: Sequence[torch.Generator],
        key: Hashable,
    ) -> Rating:
        """The selector's rating of the images; `key` says which images and draws they are."""
        place = (selector.score_key, key)
        if place not in self.known:
            started = time.perf_counter()
            for image in images:
                selector.check(image)
            scores = [selector.score(t, g) for t, g in zip(images, generators, strict=True)]
            self.synchronise()
            milliseconds = (time.perf_counter() - started) * 1e3
            self.known[place] = Rating(scores, [g.get_state() for g in generators], milliseconds)
        return self.known[place]

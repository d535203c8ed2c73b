"""FLOPs of selectors in records: by formula, or counted by torch (1 multiply-add = 2 FLOPs)."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure.cost_model import selector_flops
from zoo_exp.measure.counter import count_flops
from zoo_exp.models.answering import Generated, Probe
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import (
    LayerAnswer,
    LayerSelector,
    LayerView,
    Prompt,
    WrappedLayerSelector,
)
from zoo_exp.selectors.options import describes

MOST_SHAPES = 20_000
"""Maximum number of cached counts, of 1.5 kB each."""


class SelectorCosts:
    """FLOPs of input selectors, image by image.

    A selector without a formula is run a second time under torch's counter, so that its once-per-model work is not
    counted. The cost of this package's selectors depends only on shapes, so one count is used for all images of a
    shape. Other selectors are counted every time, unless they have a method `flops(tokens, budget) -> int`.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, selector: Selector, images: Sequence[VisualTokens], budget: Any) -> int:
        """FLOPs of selecting from these images; scoring is counted in full even if it is shared with another arm."""
        return sum(self._image(selector, image, budget) for image in images)

    def _image(self, selector: Selector, tokens: VisualTokens, budget: Any) -> int:
        flops = selector_flops(selector, tokens, budget)
        if flops is not None:
            return flops
        if not type(selector).__module__.startswith("zoo_exp.selectors."):
            return _count(selector, tokens, budget)
        key = (selector, str(budget), _shape(tokens))
        if key not in self._known:
            if len(self._known) == MOST_SHAPES:
                self._known.clear()
            self._known[key] = _count(selector, tokens, budget)
        return self._known[key]


def _count(selector: Selector, tokens: VisualTokens, budget: Any) -> int:
    return count_flops(lambda: selector.select(tokens, budget, torch.Generator().manual_seed(0)))


def _shape(tokens: VisualTokens) -> Hashable:
    """All properties of an image on which shapes of products may depend."""
    shapes = [
        (item.name, tuple(value.shape), value.dtype)
        for item in fields(tokens)
        if isinstance(value := getattr(tokens, item.name), Tensor)
    ]
    tiles = None if tokens.tile is None else tuple((tokens.tile + 1).bincount().tolist())
    words = tuple((form, len(rows)) for form, rows in sorted(tokens.question_words.items()))
    whole = None if tokens.tiles is None else (len(tokens.tiles.images), tokens.tiles.grid)
    return (*shapes, tokens.grid, tiles, words, whole)


class CountedLayerSelector(WrappedLayerSelector):
    """A layer selector that counts its own FLOPs by row.

    Attention and gravity of n real tokens are counted as products of n rows, without padding, so that a record does not
    depend on the other rows of its batch.

    Args:
        inner: the selector.
        config: configuration of the language model.

    Attributes:
        flops: FLOPs of every row with an image, in order.
    """

    def __init__(self, inner: LayerSelector, config: Any) -> None:
        super().__init__(inner)
        self._heads: int = config.num_attention_heads
        self._head: int = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self.flops: list[int] = []

    def start(self, prompt: Prompt) -> tuple[int, object]:
        """Row number and state of the selector."""
        states: list[object] = []
        known = self.inner.start_flops(prompt) if describes(self.inner, "start_flops", ["start"]) else None
        counted = _run(lambda: states.append(self.inner.start(prompt)), known is None)
        self.flops.append(counted if known is None else known)
        return len(self.flops) - 1, states[0]

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Run the selector's `pick` and add its FLOPs to those of the row."""
        assert isinstance(state, tuple)  # result of start
        row, prepared = state
        has_formula = describes(self.inner, "pick_flops", ["pick"]) and (
            type(self.inner).pick_flops is not LayerSelector.pick_flops
        )
        asked = 0  # FLOPs of the attention that the selector requests
        padded = 0  # as counted by torch

        def watch(function: Callable[[Tensor], Tensor], heads: int) -> Callable[[Tensor], Tensor]:
            def looked_at(rows: Tensor) -> Tensor:
                nonlocal asked, padded
                asked += 2 * heads * len(rows) * len(view.visual) * self._head
                found: list[Tensor] = []
                padded += _run(lambda: found.append(function(rows)), not has_formula)
                return found[0]

            return looked_at

        watched = replace(view, attention=watch(view.attention, self._heads), gravity=watch(view.gravity, 1))
        answers: list[LayerAnswer] = []
        counted = _run(lambda: answers.append(self.inner.pick(watched, count, prepared)), not has_formula)
        known = self.inner.pick_flops(view, count, answers[0]) if has_formula else None
        self.flops[row] += asked + (counted - padded if known is None else known)
        return answers[0]


class LayerFlops(Probe):
    """Counts the FLOPs of a layer selector while responses are generated.

    Args:
        config: of the language model.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._counted: CountedLayerSelector | None = None

    def layer_selector(self, selector: LayerSelector) -> LayerSelector:
        """The selector with counted `start` and `pick`."""
        self._counted = CountedLayerSelector(selector, self._config)
        return self._counted

    def rows(self, generated: Generated) -> list[int] | None:
        """FLOPs by row; None for input selectors."""
        if self._counted is None:
            return None
        spent = iter(self._counted.flops)
        return [next(spent) if kept else 0 for kept in generated.prompt.kept_tokens]


def _run(work: Callable[[], None], counted: bool) -> int:
    """Run `work`; return its FLOPs if they are to be counted, which takes longer."""
    if counted:
        return count_flops(work)
    work()
    return 0

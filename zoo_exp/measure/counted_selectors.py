"""What a selector really costs, for every record: by its formula, or as torch counts it, 1 multiply-add = 2 FLOP."""

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure.counter import count_flops
from zoo_exp.measure.selector_flops import selector_flops
from zoo_exp.models.answering import Generated, Probe
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector, LayerView, Prompt

MOST_SHAPES = 20_000
"""Counts that are remembered, of 1.5 kB each."""


class SelectorCosts:
    """FLOPs of input selectors, image by image.

    A rule without a formula is run once more under torch's counter, after it was run for good, so that what it computes
    once per model is not in the count. The rules of this package multiply matrices whose shapes alone decide the
    cost: one count serves all images of a shape. Any other rule is counted every time; a method
    `flops(tokens, budget) -> int` spares it that.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def of(self, selector: Selector, images: Sequence[VisualTokens], budget: Any) -> int:
        """FLOPs of selecting from these images, the rating in full also where another arm had made it."""
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
    """Everything about an image that a product's shape may hang on."""
    shapes = [
        (item.name, tuple(value.shape), value.dtype)
        for item in fields(tokens)
        if isinstance(value := getattr(tokens, item.name), Tensor)
    ]
    tiles = None if tokens.tile is None else tuple((tokens.tile + 1).bincount().tolist())
    words = tuple((form, len(rows)) for form, rows in sorted(tokens.question_words.items()))
    whole = None if tokens.tiles is None else (len(tokens.tiles.images), tokens.tiles.grid)
    return (*shapes, tokens.grid, tiles, words, whole)


class CountedLayerSelector:
    """A layer selector that says, row by row, what its own work costs.

    Attention and gravity of n real tokens count as products of n rows: the padding of a batch is not in it, so that a
    record does not depend on its company.

    Args:
        selector: the rule.
        config: of the language model.

    Attributes:
        rule: the rule to run in its place, of the same type.
        flops: of every row with an image, in order.
    """

    def __init__(self, selector: LayerSelector, config: Any) -> None:
        self._selector = selector
        self._heads: int = config.num_attention_heads
        self._head: int = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self.flops: list[int] = []
        self.rule: LayerSelector = copy.copy(selector)
        for name in ("start", "pick"):
            object.__setattr__(self.rule, name, getattr(self, f"_{name}"))  # its dataclass is frozen

    def _start(self, prompt: Prompt) -> tuple[int, object]:
        states: list[object] = []
        formulas = self._formulas()
        counted = _run(lambda: states.append(self._selector.start(prompt)), formulas is None)
        self.flops.append(counted if formulas is None else formulas[0](prompt))
        return len(self.flops) - 1, states[0]

    def _pick(self, view: LayerView, count: int, state: tuple[int, object]) -> LayerAnswer:
        row, inner = state
        asked = 0  # FLOPs of the attention that the rule asks for
        padded = 0  # the same as the counter sees them

        def watch(function: Any, heads: int) -> Any:
            def looked_at(rows: Tensor) -> Tensor:
                nonlocal asked, padded
                asked += 2 * heads * len(rows) * len(view.visual) * self._head
                found: list[Tensor] = []
                padded += _run(lambda: found.append(function(rows)), known is None)
                return found[0]

            return looked_at

        known = self._formulas()
        watched = replace(view, attention=watch(view.attention, self._heads), gravity=watch(view.gravity, 1))
        answers: list[LayerAnswer] = []
        counted = _run(lambda: answers.append(self._selector.pick(watched, count, inner)), known is None)
        products = counted - padded if known is None else known[1](self._selector, view, count, answers[0])
        self.flops[row] += asked + products
        return answers[0]

    def _formulas(self) -> "tuple[Callable[[Prompt], int], Callable[..., int]] | None":
        own = type(self._selector).__module__.startswith("zoo_exp.selectors.")
        return _FORMULAS.get(self._selector.name) if own else None


class LayerFlops(Probe):
    """Counts the FLOPs of a layer selector's own work while a batch is answered.

    Args:
        config: of the language model.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._counted: CountedLayerSelector | None = None

    def layer_selector(self, selector: LayerSelector) -> LayerSelector:
        """The selector with counted `start` and `pick`."""
        self._counted = CountedLayerSelector(selector, self._config)
        return self._counted.rule

    def rows(self, generated: Generated) -> list[int] | None:
        """FLOPs by row; None for input selectors."""
        if self._counted is None:
            return None
        spent = iter(self._counted.flops)
        return [next(spent) if kept else 0 for kept in generated.prompt.kept_tokens]


def _run(work: Callable[[], None], counted: bool) -> int:
    """Do the work; its FLOPs where they shall be counted, which takes longer."""
    if counted:
        return count_flops(work)
    work()
    return 0


def _nothing(*_: Any) -> int:
    return 0


def _raters(prompt: Prompt) -> int:
    """SparseVLM: every visual token with every word behind the first one."""
    first = int(prompt.visual.nonzero()[0])
    text = int((~prompt.visual[first:]).sum()) or int((~prompt.visual).sum())
    return 2 * prompt.n_visual * text * prompt.embeds.shape[1]


def _merging(selector: Any, view: LayerView, count: int, answer: LayerAnswer) -> int:
    """SparseVLM: the cluster means of recycled tokens."""
    if answer.merged is None:
        return 0
    dropped = int(view.visual.sum()) - len(answer.indices)
    return 2 * len(answer.merged) * (int(dropped * 0.3) + 1) * view.hidden.shape[1]


def _likeness(selector: Any, view: LayerView, count: int, answer: LayerAnswer) -> int:
    """DART: every pivot with every visual token."""
    n_visual = int(view.visual.sum())
    if count >= n_visual:
        return 0
    first = int(view.visual.nonzero()[0])
    text = int((~view.visual[first:]).sum())
    pivots: int = min(selector.image_pivots, count) + min(selector.text_pivots, text)
    return 2 * pivots * n_visual * view.hidden.shape[1]


_FORMULAS: dict[str, tuple[Callable[[Prompt], int], Callable[..., int]]] = {
    "dart": (_nothing, _likeness),
    "fastv": (_nothing, _nothing),
    "sparsevlm": (_raters, _merging),
}
"""Products of this package's rules besides attention and gravity, in `start` and in `pick`; torch counts others'."""

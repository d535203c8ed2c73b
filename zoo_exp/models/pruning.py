"""`pruned`, `attach` and `detach`: pruning for any script that calls `model.generate`."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from torch import Tensor

from zoo_exp import selectors
from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.tokens import Selection
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.engine import Engine
from zoo_exp.models.families import adapter_for
from zoo_exp.models.holders import forget_compiled, held_model
from zoo_exp.models.image_tap import ImageTap
from zoo_exp.models.layer_hooks import LayerHooks
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt, check_positions, generate_pruned
from zoo_exp.models.segments import Segment, visual_left
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector

_attached: "weakref.WeakKeyDictionary[Any, Pruning]" = weakref.WeakKeyDictionary()


class Pruning:
    """Handle of active pruning of a model.

    Attributes:
        selector: the selector.
        budget: visual tokens to keep per image.
    """

    def __init__(self, engine: Engine, selector: Selector | LayerSelector, budget: BudgetLike) -> None:
        self.selector, self.budget = selector, budget
        self._engine = engine

    @property
    def selections(self) -> list[list[Selection]]:
        """Selections of an input selector for the last prompt, by row; images and videos in prompt order.

        Beams share the selection of their prompt. Where `generate` repeats the images for them (transformers 5.17),
        every beam is a row.
        """
        return self._engine.tap.selections if self._engine.tap is not None else []

    @property
    def kept_tokens(self) -> list[int]:
        """Visual tokens of the last prompt that entered the language model, by row."""
        return self._engine.kept_tokens

    @property
    def layer_counts(self) -> list[list[int]]:
        """Visual tokens of the last prompt at the input of every decoder layer, by row."""
        if self._engine.layers is not None:
            return self._engine.layers.counts
        return [[kept] * len(self._engine.adapter.layers) for kept in self._engine.kept_tokens]

    def show(self, image: Image, *, row: int = 0, processor: Any = None) -> Image:
        """Draw the kept tokens of the last prompt over its image, as the model saw it (cropped, or in tiles).

        Dropped tokens are dark, kept ones have an outline. Of a layer selector, the tokens at the last layer are shown.

        Args:
            image: the PIL image of the prompt.
            row: row of the batch.
            processor: the checkpoint's processor, where the model was not loaded by `zoo_exp.load_model`.

        Raises:
            InvalidValueError: no prompt with an image yet, or tokens that form no known grid.
        """
        from zoo_exp.models.showing import show

        return show(self._engine, image, row, processor)

    def __repr__(self) -> str:
        """Selector, budget, options, model, and what the last prompt kept."""
        from zoo_exp.models.showing import describe

        return describe(self._engine, self.selector, self.budget)


@contextmanager
def pruned(
    model: Any,
    selector: str | Selector | LayerSelector,
    budget: BudgetLike = None,
    *,
    seed: int = 0,
    positions: str | None = None,
    self_check: bool = True,
    **options: Any,
) -> Iterator[Pruning]:
    """Context manager that prunes visual tokens in all calls of a model.

    Args:
        model: a Hugging Face vision-language model (docs/models.md), or the result of `load_model`.
        selector: name of a selector, or a selector.
        budget: visual tokens to keep per image or video: a count (64) or a keep ratio (0.111, "11.1%"); "16/frame" for
            every frame of a video.
        seed: seed of stochastic selectors, combined with the number of the image in its prompt.
        positions: `contiguous` or `original`; None for the default of the model family.
        self_check: for families without their own adapter, run the language model on the first prompt with every token
            kept, and refuse the model if its states differ from the unpruned ones.
        **options: options of a selector given by name.

    Yields:
        A handle with the selections and token counts of the last prompt.

    Raises:
        UnknownNameError: unknown selector, option or model type.
        InvalidValueError: a value is out of range, or the model is being pruned already.
    """
    handle = attach(model, selector, budget, seed=seed, positions=positions, self_check=self_check, **options)
    try:
        yield handle
    finally:
        if _attached.get(_stock(model)[0]) is handle:  # `detach` may have been called inside
            detach(model)


def attach(
    model: Any,
    selector: str | Selector | LayerSelector,
    budget: BudgetLike = None,
    *,
    seed: int = 0,
    positions: str | None = None,
    self_check: bool = True,
    **options: Any,
) -> Pruning:
    """Enable pruning until `detach` is called.

    Args:
        model: as in `pruned`, like the arguments that follow.
        selector: name of a selector, or a selector.
        budget: visual tokens to keep per image or video.
        seed: seed of stochastic selectors.
        positions: `contiguous` or `original`; None for the default of the model family.
        self_check: whether to check the first prompt of a family without its own adapter.
        **options: options of a selector given by name.

    Returns:
        A handle with the selections and token counts of the last prompt.

    Raises:
        UnknownNameError: unknown selector, option or model type.
        InvalidValueError: a value is out of range, or the model is being pruned already.
    """
    clip = model.adapter.clip if isinstance(model, LoadedModel) else None
    model, processor = _stock(model)
    adapter = adapter_for(model, processor)
    adapter.clip = clip
    _check_free(model)
    chosen: Any = selectors.get(selector, **options) if isinstance(selector, str) else selector
    if options and not isinstance(selector, str):
        raise InvalidValueError(f"options {', '.join(options)} require a selector's name, not a selector")
    if budget is not None:
        budget = Budget.parse(budget)
    positions = check_positions(positions, adapter)
    check = self_check and adapter.self_check
    if isinstance(chosen, LayerSelector):
        engine = Engine(
            adapter,
            None,
            LayerHooks(adapter.llm, chosen, budget, verify=adapter.self_check),
            positions,
            self_check=check,
        )
    elif isinstance(chosen, Selector):
        engine = Engine(adapter, ImageTap(adapter, chosen, budget, seed), None, positions, self_check=check)
    else:
        raise InvalidValueError(f"selector {chosen!r} is neither a name nor a selector")
    engine.attach()
    forget_compiled(model)
    handle = Pruning(engine, chosen, budget)
    _attached[model] = handle
    return handle


def detach(model: Any) -> None:
    """Disable pruning and remove all hooks from the model.

    Args:
        model: the model that was given to `attach`, or the result of `load_model`.

    Raises:
        InvalidValueError: the model is not being pruned.
    """
    handle = _attached.pop(_stock(model)[0], None)
    if handle is None:
        raise InvalidValueError("this model is not being pruned: there is nothing to detach")
    handle._engine.detach()
    forget_compiled(_stock(model)[0])


@dataclass(frozen=True)
class LayerPruned:
    """Result of generation under a layer selector.

    Attributes:
        new_tokens: generated ids [B, T].
        counts: visual tokens at the input of every decoder layer, by row [B][n_layers].
        segments: the sequences that the layers read, the whole prompt first; empty without visual tokens.
    """

    new_tokens: Tensor
    counts: list[list[int]]
    segments: list[Segment]

    def left(self) -> list[list[int]]:
        """Visual tokens at the input of the last layer, by row, ascending; excludes merged tokens.

        Computed on demand, so that it is not part of the measured generation time.
        """
        if not self.segments:
            return [[] for _ in self.counts]
        rows = visual_left(self.segments[0], self.segments[-1])
        return rows[:: len(rows) // len(self.counts)]


def generate_layer_pruned(
    adapter: VLMAdapter,
    prompt: PrunedPrompt,
    selector: LayerSelector,
    budget: BudgetLike,
    **generate_kwargs: Any,
) -> LayerPruned:
    """Generate responses while a layer selector drops visual tokens inside the model.

    Args:
        adapter: adapter of the model.
        prompt: from `prune_prompt`, usually with selections that keep every token.
        selector: the layer selector.
        budget: visual tokens to keep per prompt, as the selector's `schedule` reads it.
        **generate_kwargs: options of `generate`.

    Returns:
        The new tokens, and the visual tokens at the input of every decoder layer.

    Raises:
        InvalidValueError: the model is being pruned already, or the budget is out of range.
    """
    model = adapter.model
    _check_free(model)
    own = None if budget is None else Budget.parse(budget)
    hooks = LayerHooks(adapter.llm, selector, own, verify=adapter.self_check)
    engine = Engine(adapter, None, hooks, adapter.positions)
    engine.attach()
    try:
        engine.visual = prompt.visual
        answer = generate_pruned(model, prompt, **generate_kwargs)
        copies = max(1, len(hooks.counts) // len(prompt.kept_tokens))
        return LayerPruned(answer, [list(row) for row in hooks.counts[::copies]], hooks.segments)
    finally:
        engine.detach()


def _stock(model: Any) -> tuple[Any, Any]:
    """The Hugging Face model, and its processor if the argument is a `LoadedModel`."""
    if isinstance(model, LoadedModel):
        return model.model, model.processor
    return held_model(model), None


def _check_free(model: Any) -> None:
    if model in _attached:
        raise InvalidValueError(
            "this model is being pruned already: leave the `with` block or detach it first"
        )

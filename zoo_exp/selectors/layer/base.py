"""Base classes of layer selectors, which drop visual tokens after some layers of the language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.checks import check_features, check_picks
from zoo_exp.errors import InvalidValueError
from zoo_exp.registry import is_ours
from zoo_exp.selectors.options import one_of

Schedule = dict[int, int]
"""Decoder layer (from 0) -> maximum number of visual tokens after it."""


@dataclass(frozen=True)
class Prompt:
    """One row of a batch at the input of the language model, without padding.

    Attributes:
        embeds: input embeddings [n, D].
        visual: visual tokens [n] (bool).
        n_layers: decoder layers of the model.
        budget: the budget.
    """

    embeds: Tensor
    visual: Tensor
    n_layers: int
    budget: BudgetLike = None

    @property
    def n_visual(self) -> int:
        """N, visual tokens of the row."""
        return int(self.visual.sum())


@dataclass(frozen=True)
class LayerView:
    """State of one row after a decoder layer.

    Attributes:
        layer: number of the layer, from 0.
        hidden: its output [n, D].
        visual: visual tokens, merged ones included [n] (bool).
        source: position of each token in the `Prompt` [n]; -1 for merged tokens.
        attention: function (rows [r]) -> causal attention of these query rows at this layer [H, r, n], float32.
        keys: function () -> rotated keys of this layer [n, Hkv * d].
        gravity: function (rows [r]) -> product of rotated vectors of ones, over sqrt(d) [r, n]: the effect of
            distance alone on a logit.
        norm: the model's final norm.
    """

    layer: int
    hidden: Tensor
    visual: Tensor
    source: Tensor
    attention: Callable[[Tensor], Tensor]
    keys: Callable[[], Tensor]
    gravity: Callable[[Tensor], Tensor]
    norm: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LayerAnswer:
    """The visual tokens of one row to keep.

    Attributes:
        indices: into the row's current visual tokens, ascending [k] (int64).
        merged: tokens to append after the kept ones [m, D], or None.
    """

    indices: Tensor
    merged: Tensor | None = None


@dataclass(frozen=True)
class LayerSelector:
    """Drops visual tokens inside the language model. Options are dataclass fields.

    Subclasses implement `layers`, `schedule` and `pick`; `start` computes what the layers of a row share.

    Attributes:
        positions: `original` keeps every token's position after the layer, `contiguous` renumbers them.

    Class attributes:
        name: name of the selector.
        paper: the publication, and the repository and commit against which it was verified.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    at_most: ClassVar[bool] = True
    """Whether `pick` never keeps more tokens than `schedule` gives."""
    positions: str | None = "original"

    def __post_init__(self) -> None:
        """Check the options; subclasses extend it."""
        one_of(self, "positions", ("original", "contiguous"))

    @property
    def needs(self) -> frozenset[str]:
        """Required fields of `VisualTokens`: none, since layer selectors use hidden states."""
        return frozenset()

    @property
    def captures(self) -> frozenset[str]:
        """Fields that adapters should capture: those of `needs`."""
        return self.needs

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on a generator."""
        return False

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """Layers after which tokens are dropped.

        Args:
            n_layers: decoder layers of the model.

        Returns:
            Numbers of layers, from 0, ascending.
        """
        raise NotImplementedError

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """Number of tokens kept after each of the `layers`.

        Args:
            budget: of the prompt.
            n_visual: N, its visual tokens.
            n_layers: decoder layers of the model.

        Raises:
            InvalidValueError: the budget cannot be reached.
        """
        raise NotImplementedError

    def start(self, prompt: Prompt) -> object:
        """Compute what the layers of one row share, from the input embeddings."""
        return None

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Select `count` of the row's visual tokens.

        Args:
            view: the row after the layer.
            count: from `schedule` for this layer, at most the number of visual tokens.
            state: what `start` returned for this row.
        """
        raise NotImplementedError

    def check_answer(self, answer: LayerAnswer, n_visual: int, count: int) -> None:
        """Check that `pick` returned at most `count` different indices into the visual tokens.

        A selector with `at_most = False`, as released, may keep a few tokens more.

        Args:
            answer: what `pick` returned.
            n_visual: visual tokens that it chose from.
            count: tokens that it was asked to keep.

        Raises:
            InvalidValueError: names the selector and its class.
        """
        who = f"selector {self.name} ({type(self).__name__})"
        if not isinstance(answer, LayerAnswer):
            raise InvalidValueError(f"{who} must answer with a LayerAnswer, got {type(answer).__name__}")
        if answer.merged is not None and len(answer.merged):
            check_features(answer.merged, name=f"merged tokens of {who}")
        on_cpu = isinstance(answer.indices, Tensor) and answer.indices.device.type == "cpu"
        look = on_cpu or not is_ours(type(self))
        limit = count if self.at_most else n_visual
        check_picks(who, answer.indices, n_visual, limit, exact=False, look=look)

    def start_flops(self, prompt: Prompt) -> int | None:
        """FLOPs of `start` by formula, or None to count them at runtime."""
        return None

    def pick_flops(self, view: LayerView, count: int, answer: LayerAnswer) -> int | None:
        """FLOPs of `pick` by formula without those of `view.attention` and `view.gravity`, or None.

        Args:
            view: as in `pick`.
            count: as in `pick`.
            answer: what `pick` returned.
        """
        return None


class WrappedLayerSelector(LayerSelector):
    """Delegates to another layer selector; subclasses measure its `start` and `pick`.

    Attributes:
        inner: the other selector.
    """

    def __init__(self, inner: LayerSelector) -> None:
        super().__init__(inner.positions)
        self.inner: LayerSelector = inner

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """Those of the inner selector."""
        return self.inner.layers(n_layers)

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """That of the inner selector."""
        return self.inner.schedule(budget, n_visual, n_layers)

    def start(self, prompt: Prompt) -> object:
        """State of the inner selector."""
        return self.inner.start(prompt)

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Pick of the inner selector."""
        return self.inner.pick(view, count, state)

    def check_answer(self, answer: LayerAnswer, n_visual: int, count: int) -> None:
        """As the inner selector."""
        self.inner.check_answer(answer, n_visual, count)


def kept_behind(budget: Budget, n_visual: int, n_layers: int, full: int, name: str) -> int:
    """Number of tokens that a selector with one pruning layer keeps, so that the mean over layers matches a budget.

    The first layers see every token, which gives a lower bound for the mean.

    Args:
        budget: mean number of visual tokens at the input of a layer.
        n_visual: visual tokens of the image.
        n_layers: decoder layers of the model.
        full: number of layers that see every token.
        name: name of the selector, for messages.

    Raises:
        InvalidValueError: the mean is below the smallest possible one, which the message gives.
    """
    return Budget(count=round(exact_count(budget, n_visual, n_layers, full, name))).resolve(n_visual)


def exact_count(budget: Budget, n_visual: int, n_layers: int, full: int, name: str) -> float:
    """The result of `kept_behind` before it is rounded; arguments and errors as there.

    Args:
        budget: mean number of visual tokens at the input of a layer.
        n_visual: visual tokens of the image.
        n_layers: decoder layers of the model.
        full: number of layers that see every token.
        name: name of the selector, for messages.

    Raises:
        InvalidValueError: the mean is below the smallest possible one.

    >>> exact_count(Budget(count=192), 576, 32, 2, "fastv")  # 2 layers see 576 tokens, 30 see 166.4: 192 on average
    166.4
    """
    target = budget.resolve(n_visual)
    kept = (target * n_layers - full * n_visual) / (n_layers - full)
    if kept < 0:
        least = -(-full * n_visual // n_layers)
        raise InvalidValueError(
            f"budget {budget} of selector {name}: {full} full layers of {n_layers} alone make a layer average of "
            f"{full * n_visual / n_layers:.1f}; give {least} or more, or a budget without mean (budget_of=kept), "
            "which counts the tokens kept after them"
        )
    return kept


def check_depth(name: str, option: str, layers: int, n_layers: int) -> None:
    """Check that the number of full layers is below the number of layers.

    Args:
        name: of the selector, for the message.
        option: its option.
        layers: the value of the option.
        n_layers: decoder layers of the model.

    Raises:
        InvalidValueError: no layer would be pruned.
    """
    if layers >= n_layers:
        raise InvalidValueError(
            f"{option} {layers} of selector {name}: the language model has {n_layers} layers, give at most "
            f"{n_layers - 1}"
        )


def layer_average(counts: list[int]) -> float:
    """Mean number of visual tokens over the layers of the model.

    Args:
        counts: visual tokens at every layer's input.

    >>> layer_average([576, 576, 64, 64])
    320.0
    """
    return sum(counts) / len(counts)

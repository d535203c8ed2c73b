"""What a layer selector is: it drops visual tokens after some layers of the language model."""

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
"""Decoder layer (from 0) -> maximum number of visual tokens that leave it."""


@dataclass(frozen=True)
class Prompt:
    """One row of a batch as it enters the language model, without padding.

    Attributes:
        embeds: input embeddings [n, D].
        visual: visual tokens [n] (bool).
        n_layers: decoder layers of the model.
        budget: what the user asked for.
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
    """One row after a decoder layer.

    Attributes:
        layer: number of the layer, from 0.
        hidden: its output [n, D].
        visual: visual tokens, merged ones included [n] (bool).
        source: place of each token in the `Prompt` [n]; -1 for merged tokens.
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
    """Which visual tokens of one row stay.

    Attributes:
        indices: into the row's current visual tokens, ascending [k] (int64).
        merged: tokens appended after the kept ones [m, D], or None.
    """

    indices: Tensor
    merged: Tensor | None = None


@dataclass(frozen=True)
class LayerSelector:
    """Drops visual tokens inside the language model. Its options are its dataclass fields.

    A subclass implements `layers`, `schedule` and `pick`; `start` prepares what all of its layers share.

    Attributes:
        positions: `original` keeps every token's position after the layer, `contiguous` renumbers them.

    Class attributes:
        name: what a user types.
        paper: the publication, and the repository and commit that it was checked against.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    positions: str | None = "original"

    def __post_init__(self) -> None:
        """Check the options; subclasses extend it."""
        one_of(self, "positions", ("original", "contiguous"))

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `VisualTokens` that are read: none, since it works on hidden states."""
        return frozenset()

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on a generator."""
        return False

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """Layers after which tokens are dropped, from 0, ascending."""
        raise NotImplementedError

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """How many of `n_visual` tokens leave each of the `layers`.

        Raises:
            InvalidValueError: a budget that cannot be reached.
        """
        raise NotImplementedError

    def start(self, prompt: Prompt) -> object:
        """What the layers share for one row, from the input embeddings."""
        return None

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Choose `count` of the row's visual tokens.

        Args:
            view: the row after the layer.
            count: from `schedule` for this layer, at most the number of visual tokens.
            state: what `start` returned for this row.
        """
        raise NotImplementedError

    def check_answer(self, answer: LayerAnswer, n_visual: int, count: int) -> None:
        """Refuse an answer of `pick` that is not at most `count` different indices into the visual tokens.

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
        check_picks(who, answer.indices, n_visual, count, exact=False, look=look)

    def start_flops(self, prompt: Prompt) -> int | None:
        """FLOPs of `start` by formula, or None: then they are counted while it runs."""
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
    """Runs another layer selector; subclasses measure its `start` and `pick`.

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
        """What the inner selector prepares."""
        return self.inner.start(prompt)

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """What the inner selector picks."""
        return self.inner.pick(view, count, state)

    def check_answer(self, answer: LayerAnswer, n_visual: int, count: int) -> None:
        """As the inner selector."""
        self.inner.check_answer(answer, n_visual, count)


def kept_behind(budget: Budget, n_visual: int, n_layers: int, full: int, name: str) -> int:
    """How many tokens a selector that prunes once keeps, so that the mean over the layers comes nearest to a budget.

    The first layers see every token, so that the mean cannot fall below what they alone make of it.

    Args:
        budget: the mean number of visual tokens at the input of a layer.
        n_visual: visual tokens of the image, all of which the first layers see.
        n_layers: decoder layers of the model.
        full: layers that see every token.
        name: of the selector, for the message.

    Raises:
        InvalidValueError: a mean below the smallest possible one, with that.
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
    return Budget(count=round(kept)).resolve(n_visual)


def check_depth(name: str, option: str, layers: int, n_layers: int) -> None:
    """Check that fewer layers run in full than there are.

    Raises:
        InvalidValueError: nothing would be left to prune.
    """
    if layers >= n_layers:
        raise InvalidValueError(
            f"{option} {layers} of selector {name}: the language model has {n_layers} layers, give at most "
            f"{n_layers - 1}"
        )


def layer_average(counts: list[int]) -> float:
    """Mean number of visual tokens over the layers of the model, from the count at every layer's input."""
    return sum(counts) / len(counts)

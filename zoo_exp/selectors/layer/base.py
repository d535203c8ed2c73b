"""What a layer selector is: a rule that drops visual tokens behind some layers of the language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError

BudgetLike = Budget | int | float | str | None
Schedule = dict[int, int]
"""Decoder layer, from 0 -> how many visual tokens may leave it."""


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
    """One row behind a decoder layer.

    Attributes:
        layer: number of the layer, from 0.
        hidden: its output [n, D].
        visual: visual tokens, merged ones included [n] (bool).
        source: place of each token in the `Prompt` [n]; -1 for merged tokens.
        attention: function (rows [r]) -> causal attention of these query rows at this layer [H, r, n], float32.
        keys: function () -> rotated keys of this layer [n, Hkv * d].
        gravity: function (rows [r]) -> product of rotated vectors of ones, over sqrt(d) [r, n]: what distance
            alone does to a logit.
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
    """Which visual tokens of one row go on.

    Attributes:
        indices: into the row's current visual tokens, ascending [k] (int64).
        merged: tokens that are put behind the kept ones [m, D], or None.
    """

    indices: Tensor
    merged: Tensor | None = None


@dataclass(frozen=True)
class LayerSelector:
    """A rule that decides inside the language model. Its options are its dataclass fields.

    A rule implements `schedule` and `pick`; `start` prepares what all of its layers share.

    Attributes:
        positions: `original` keeps every token's position behind the layer, `contiguous` renumbers them.

    Class attributes:
        name: what a user types.
        paper: where the rule comes from.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    positions: str | None = "original"

    def __post_init__(self) -> None:
        """Check the options; subclasses extend it."""
        self.check_choice("positions", ("original", "contiguous"))

    def check_choice(self, option: str, allowed: tuple[object, ...]) -> None:
        """Refuse an option that is not one of the allowed values."""
        value = getattr(self, option)
        if value not in allowed:
            names = ", ".join(map(str, allowed))
            raise InvalidValueError(f"{option} {value!r} of selector {self.name}: allowed are {names}")

    def check_count(self, option: str, least: int) -> None:
        """Refuse an option that is not a whole number of at least `least`."""
        value = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidValueError(
                f"{option} {value!r} of selector {self.name}: must be a whole number of at least {least}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `VisualTokens` that the rule looks at: none, it works on hidden states."""
        return frozenset()

    @property
    def stochastic(self) -> bool:
        """Whether the answer depends on a generator."""
        return False

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """Layers behind which the rule acts, from 0, ascending."""
        raise NotImplementedError

    def schedule(self, budget: BudgetLike, n_visual: int, n_layers: int) -> Schedule:
        """How many of `n_visual` tokens leave each of the rule's layers.

        Raises:
            InvalidValueError: a budget that the rule cannot reach.
        """
        raise NotImplementedError

    def start(self, prompt: Prompt) -> object:
        """What the rule's layers share for one row, from the input embeddings."""
        return None

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        """Choose `count` of the row's visual tokens.

        Args:
            view: the row behind the layer.
            count: what `schedule` says for this layer, at most the number of visual tokens.
            state: what `start` gave for this row.
        """
        raise NotImplementedError


def parse_budget(budget: BudgetLike, name: str) -> Budget:
    """The budget as an object.

    Raises:
        InvalidValueError: none was given, or one per tile.
    """
    if budget is None:
        raise InvalidValueError(
            f"selector {name} needs a budget: a number of tokens (64) or a keep ratio (11.1%)"
        )
    parsed = Budget.parse(budget)
    if parsed.per == "tile":
        raise InvalidValueError(
            f"budget {budget} of selector {name}: the language model's layers know no tiles; give a number per image, "
            "such as that of five tiles"
        )
    return parsed


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
            "which counts what is kept behind them"
        )
    return Budget(count=round(kept)).resolve(n_visual)


def check_depth(name: str, option: str, layers: int, n_layers: int) -> None:
    """Refuse to run in full as many layers as there are, or more.

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

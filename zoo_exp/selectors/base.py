"""What a selector is: `Selector` (any rule), `ScoreSelector` (one score each), `GreedySelector` (max-min)."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.diversity import greedy_many
from zoo_exp.core.fusion import top_k
from zoo_exp.core.sensitivity import check_features
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.plan import NEWLINES, Plan, plan

BudgetLike = Budget | int | float | str | None


@dataclass(frozen=True)
class Selector:
    """A rule that decides which visual tokens of an image stay. Its options are its dataclass fields.

    A rule implements `pick`, and `score` where it rates all tokens of an image first. `select` does the rest:
    it reads the budget, checks that what the rule needs is there and finite, goes through the tiles, and
    orders the answer.

    Attributes:
        newline: what happens to newline tokens of tiled images: `drop`, `keep` (all of them, on top of the
            budget) or `as_released` (what the method's released code does; spec: algorithms 1.3 and 2).

    Class attributes:
        name: what a user types.
        paper: where the rule comes from.
        exact: whether it keeps exactly as many tokens as the budget says.
        equivariant: whether a permutation of the tokens permutes the answer.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    equivariant: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset()

    newline: str = "drop"

    def __post_init__(self) -> None:
        """Check the options; subclasses extend it."""
        one_of(self, "newline", NEWLINES)

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `VisualTokens` that the rule looks at besides `projected`; only these are captured."""
        return self.NEEDS

    @property
    def stochastic(self) -> bool:
        """Whether the answer depends on the generator."""
        return False

    @property
    def score_key(self) -> Hashable:
        """What decides the scores: selectors with equal keys rate alike, so one rating can serve all of them."""
        return replace(self, newline="drop")

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor | None:
        """Importance of every token of the image [N], or None for rules without one."""
        return None

    def pick(
        self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator
    ) -> Tensor | Selection:
        """Choose k of the tokens, 0 < k < N: indices in any order, or a Selection with merged features."""
        raise NotImplementedError

    def select(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None = None,
    ) -> Selection:
        """Choose the visual tokens of one image that stay.

        Args:
            tokens: what may be looked at.
            budget: how many stay.
            generator: the only source of randomness.
            scores: what `score` gave for these tokens, with the generator as `score` left it; None rates
                them here.

        Returns:
            Kept indices, ascending and unique, exactly as many as the budget asks for
            (and newlines on top where the option `newline` says so).

        Raises:
            InvalidValueError: a budget that does not fit, a needed field that is missing, NaN or infinity.
        """
        layout = self.plan(tokens, budget)
        self.check(tokens)
        if scores is None and layout.total:
            scores = self.score(tokens, generator)
        check_scores(self.name, scores, tokens)
        picked: list[Tensor | Selection] = []
        for group in layout.groups:
            index, part, rated = group.index, tokens, scores
            if index is not None and group.k:
                part, rated = tokens.subset(index), None if scores is None else scores[index]
            if group.k and group.k == part.count:
                picked.append(torch.arange(part.count, device=tokens.device))
            elif group.k:
                picked.append(self.pick(part, rated, group.k, generator))
        return layout.assemble(tokens, picked, scores)

    def select_many(
        self,
        tokens: Sequence[VisualTokens],
        budget: BudgetLike,
        generators: Sequence[torch.Generator],
        scores: Sequence[Tensor | None] | None = None,
    ) -> list[Selection]:
        """`select` for several images, with one generator each and the same answers as one by one."""
        rated = [None] * len(tokens) if scores is None else scores
        return [self.select(t, budget, g, s) for t, g, s in zip(tokens, generators, rated, strict=True)]

    def plan(self, tokens: VisualTokens, budget: BudgetLike) -> Plan:
        """How the budget is spread over the image; a variant of a rule may override it."""
        if budget is None:
            raise InvalidValueError(
                f"selector {self.name} needs a budget: a number of tokens (64) or a keep ratio (11.1%)"
            )
        return plan(tokens, Budget.parse(budget), self.newline)

    def check(self, tokens: VisualTokens) -> None:
        """Refuse an image that lacks what the rule needs, or whose features are not finite."""
        for field in self.needs:
            if not tokens.has(field):
                raise InvalidValueError(
                    f"selector {self.name} needs '{field}', which this model or adapter does not provide"
                )
        check_features(tokens.projected, name="projected features")
        if tokens.features is not None and "features" in self.needs:
            check_features(tokens.features)


@dataclass(frozen=True)
class ScoreSelector(Selector):
    """A rule that keeps the tokens with the highest score: implement `score`. Ties go to the lowest index."""

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """The k highest scores."""
        if scores is None:
            raise NotImplementedError(f"selector {self.name} must implement score")
        return top_k(scores, k)


@dataclass(frozen=True)
class GreedySelector(Selector):
    """A rule whose picks are `diversity.greedy` on the projected features: `select_many` batches them."""

    def weights(self, scores: Tensor | None) -> Tensor | None:
        """What the greedy rule multiplies or adds, from the scores of the tokens in question [N]."""
        return None

    @property
    def combine(self) -> str:
        """How weight and distance meet."""
        return "multiply"

    @property
    def is_greedy(self) -> bool:
        """Whether the options ask for greedy picks; otherwise the highest scores stay."""
        return True

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks."""
        if not self.is_greedy and scores is not None:
            return top_k(scores, k)
        weights = self.weights(scores)
        return greedy_many(
            [tokens.projected], [k], None if weights is None else [weights], combine=self.combine
        )[0]

    @torch.no_grad()
    def select_many(
        self,
        tokens: Sequence[VisualTokens],
        budget: BudgetLike,
        generators: Sequence[torch.Generator],
        scores: Sequence[Tensor | None] | None = None,
    ) -> list[Selection]:
        """Scores image by image, as they must not depend on the company; then all greedy steps together."""
        if not self.is_greedy:
            return super().select_many(tokens, budget, generators, scores)
        layouts, all_scores = [], []
        jobs: list[tuple[Tensor, int, Tensor | None]] = []
        known = [None] * len(tokens) if scores is None else scores
        for t, generator, score in zip(tokens, generators, known, strict=True):
            layout = self.plan(t, budget)
            self.check(t)
            if score is None and layout.total:
                score = self.score(t, generator)
            check_scores(self.name, score, t)
            layouts.append(layout)
            all_scores.append(score)
            for group in layout.groups:
                if group.k:
                    rows, rated = t.projected, score
                    if group.index is not None:
                        rows = rows[group.index]
                        rated = None if score is None else score[group.index]
                    jobs.append((rows, group.k, self.weights(rated)))
        weights = [w for _, _, w in jobs if w is not None]
        picks = iter(
            greedy_many(
                [e for e, _, _ in jobs], [k for _, k, _ in jobs], weights or None, combine=self.combine
            )
        )
        answers = []
        for t, layout, score in zip(tokens, layouts, all_scores, strict=True):
            picked: list[Tensor | Selection] = [next(picks) for group in layout.groups if group.k]
            answers.append(layout.assemble(t, picked, score))
        return answers


def check_scores(name: str, scores: Tensor | None, tokens: VisualTokens) -> None:
    """Refuse scores of a selector that are not one finite number for each visual token [N].

    Raises:
        InvalidValueError: another shape, NaN or infinity.
    """
    if scores is None:
        return
    if scores.shape != (tokens.count,):
        raise InvalidValueError(
            f"selector {name} must score every visual token once: expected shape ({tokens.count},), "
            f"got {tuple(scores.shape)}"
        )
    check_features(scores[:, None], name=f"scores of selector {name}")


def one_of(selector: Selector, option: str, allowed: Iterable[object]) -> None:
    """Refuse an option that is not one of the allowed values."""
    value, allowed = getattr(selector, option), tuple(allowed)
    if value not in allowed:
        names = ", ".join(map(str, allowed))
        raise InvalidValueError(f"{option} {value!r} of selector {selector.name}: allowed are {names}")


def positive(selector: Selector, option: str, kind: type = float) -> None:
    """Refuse an option that is not a positive finite number (a whole one where kind is int)."""
    value = getattr(selector, option)
    fits = isinstance(value, int) if kind is int else isinstance(value, int | float)
    if isinstance(value, bool) or not fits or not 0 < value < float("inf"):
        what = "a whole number above 0" if kind is int else "a number above 0"
        raise InvalidValueError(f"{option} {value!r} of selector {selector.name}: must be {what}")

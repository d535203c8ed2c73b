"""Base classes of input selectors: `Selector`, `ScoreSelector` (one score per token), `GreedySelector` (max-min)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.checks import check_picks, check_scores
from zoo_exp.core.diversity import greedy_many, pair_area
from zoo_exp.core.flops import linear
from zoo_exp.core.fusion import top_k
from zoo_exp.core.sensitivity import check_features
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.registry import is_ours
from zoo_exp.selectors.allocation import NEWLINES, Group, Job, Plan, plan
from zoo_exp.selectors.options import one_of, required_budget


@dataclass(frozen=True)
class Selector:
    """Selects visual tokens of an image before the language model. Options are dataclass fields.

    Subclasses implement `pick`, and `score` if they rate all tokens of an image first. `select` does the rest: it
    parses the budget, checks that the required fields are available and finite, processes tiles, and sorts the result.

    Attributes:
        newline: treatment of newline tokens of tiled images: `drop`, `keep` (all of them, in addition to the budget)
            or `as_released` (as in the method's released code).

    Class attributes:
        name: name of the selector.
        paper: the publication, and the repository and commit against which it was verified.
        exact: whether it keeps exactly the number of tokens of the budget.
        equivariant: whether a permutation of the tokens permutes the result.
        NEEDS: fields of `VisualTokens` read in addition to `projected`, with the default options.
        algorithm: enters the identity of records; raise it in a change after which other tokens are selected. For
            classes outside the package, the source of their module enters by itself.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    equivariant: ClassVar[bool] = True
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    algorithm: ClassVar[int] = 1

    newline: str = "drop"

    def __post_init__(self) -> None:
        """Check the options; subclasses extend it."""
        one_of(self, "newline", NEWLINES)

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `VisualTokens` read in addition to `projected`; only these are captured."""
        return self.NEEDS

    @property
    def wants(self) -> frozenset[str]:
        """Fields that save work where the adapter captures them; the result must not depend on them."""
        return frozenset()

    @property
    def captures(self) -> frozenset[str]:
        """All fields that adapters should capture."""
        return self.needs | self.wants

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on the generator."""
        return False

    @property
    def score_key(self) -> Hashable:
        """Key of the scores: selectors with equal keys compute equal scores and share one scoring pass."""
        return replace(self, newline="drop")

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor | None:
        """Importance of every token of the image, or None for selectors without scores.

        Args:
            tokens: the image, with the fields of `needs`.
            generator: the only source of randomness.

        Returns:
            Scores [N], finite, any float dtype; higher is more important.
        """
        return None

    @property
    def rescores(self) -> "Selector | None":
        """The selector whose scores `rescored` changes to those of `score`, so that both share the work; or None."""
        return None

    def rescored(
        self, scores: Tensor | None, tokens: VisualTokens, generator: torch.Generator
    ) -> Tensor | None:
        """The result of `score`, made from the scores of another selector (see `rescores`).

        Args:
            scores: result of the other selector's `score` for these tokens [N], or None.
            tokens: the image, or one tile of it.
            generator: the source of randomness, in the state behind that `score`.

        Returns:
            Scores [N] (higher: keep), or None, equal to those of `score`.
        """
        raise NotImplementedError

    def pick(
        self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator
    ) -> Tensor | Selection:
        """Select k of the tokens.

        Args:
            tokens: the image, or one tile of it.
            scores: result of `score` for these tokens [N], or None.
            k: tokens to keep, 0 < k < N.
            generator: the only source of randomness.

        Returns:
            Indices of the kept tokens [k] (int64) in any order, or a `Selection` with merged features.
        """
        raise NotImplementedError

    def select(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None = None,
    ) -> Selection:
        """Select the visual tokens of one image to keep.

        Args:
            tokens: the image.
            budget: number of tokens to keep.
            generator: the only source of randomness.
            scores: result of `score` for these tokens [N], with the generator in the state after it; None computes it.

        Returns:
            Kept indices, ascending and unique, exactly as many as given by the budget (plus newlines, depending on
            the option `newline`).

        Raises:
            InvalidValueError: the budget does not fit the image, a required field is missing, or values are not finite.
        """
        job = self._job(tokens, budget, generator, scores)
        return job.finish(self._picked(job, group, generator) for group in job.open)

    def select_many(
        self,
        tokens: Sequence[VisualTokens],
        budget: BudgetLike,
        generators: Sequence[torch.Generator],
        scores: Sequence[Tensor | None] | None = None,
    ) -> list[Selection]:
        """`select` for several images; the results do not depend on the batch.

        Args:
            tokens: the images.
            budget: number of tokens to keep of each.
            generators: one per image.
            scores: results of `score` [N] per image, or None to compute them.

        Returns:
            One selection per image.
        """
        rated = [None] * len(tokens) if scores is None else scores
        return [self.select(t, budget, g, s) for t, g, s in zip(tokens, generators, rated, strict=True)]

    def plan(self, tokens: VisualTokens, budget: BudgetLike) -> Plan:
        """Allocate the budget to the tiles of the image; variants of a method may override it.

        Args:
            tokens: the image.
            budget: number of tokens to keep.

        Raises:
            InvalidValueError: no budget, or one that does not fit the image.
        """
        return plan(tokens, required_budget(budget, self.name, tiles=True), self.newline)

    def check(self, tokens: VisualTokens) -> None:
        """Check that the required fields are available and the features are finite.

        Raises:
            InvalidValueError: they are not.
        """
        for field in self.needs:
            if not tokens.has(field):
                raise InvalidValueError(
                    f"selector {self.name} needs '{field}', which this model or adapter does not provide"
                )
        check_features(tokens.projected, name="projected features")
        if tokens.features is not None and "features" in self.needs:
            check_features(tokens.features)

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int | None:
        """FLOPs of `select` by formula, or None to count them at runtime, which takes longer.

        Quantities that are computed once per model (the kernel of the closed form, a truncated SVD) are excluded. The
        formula applies to the class that defines it; a subclass with another `score` or `pick` needs its own (see
        `options.describes`).

        Args:
            tokens: the image.
            budget: number of tokens to keep.
        """
        return None

    def paper_flops(self, n_visual: int, vision_width: int, width: int) -> int:
        """FLOPs of the selector by the formulas of the ZOO-Prune paper, which count finite differences only.

        Args:
            n_visual: N, visual tokens of the image.
            vision_width: Dv.
            width: D.
        """
        return 0

    def competing(self, tokens: VisualTokens, budget: BudgetLike) -> list[int]:
        """Sizes of the sets of competing tokens, for FLOPs formulas.

        Args:
            tokens: the image.
            budget: number of tokens to keep.
        """
        return [group.size(tokens) for group in self.plan(tokens, budget).groups if group.k]

    @property
    def title(self) -> str:
        """What messages about its answers call it: name and class."""
        return f"selector {self.name} ({type(self).__name__})"

    def _picked(self, job: Job, group: Group, generator: torch.Generator) -> "Tensor | Selection":
        """The answer of `pick` for one group, checked."""
        part = job.part(group)
        answer = self.pick(part, job.rated(group), group.k, generator)
        indices = answer.indices if isinstance(answer, Selection) else answer
        # Values of ours are proven by the contract suite; looking at them would wait for the GPU.
        look = not is_ours(type(self))
        check_picks(self.title, indices, part.count, group.k, exact=self.exact, look=look)
        return answer

    def _job(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None,
    ) -> Job:
        """Plan, check and score one image."""
        layout = self.plan(tokens, budget)
        self.check(tokens)
        if scores is None and layout.total:
            scores = self.score(tokens, generator)
        check_scores(self.title, scores, tokens.count)
        return Job(tokens, layout, scores)


@dataclass(frozen=True)
class ScoreSelector(Selector):
    """Keeps the tokens with the highest scores; subclasses implement `score`. Ties go to the lowest index."""

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """The k highest scores."""
        if scores is None:
            raise NotImplementedError(f"selector {self.name} must implement score")
        return top_k(scores, k)


@dataclass(frozen=True)
class GreedySelector(Selector):
    """Picks by `diversity.greedy` on the projected features; `select_many` runs the greedy steps of a batch at once."""

    def weights(self, scores: Tensor | None) -> Tensor | None:
        """Weights to combine with distances, from the scores of the competing tokens [N]."""
        return None

    @property
    def combine(self) -> str:
        """How weight and distance are combined: `multiply` or `sum`."""
        return "multiply"

    @property
    def is_greedy(self) -> bool:
        """Whether tokens are picked greedily; otherwise those with the highest scores are kept."""
        return True

    def pick(self, tokens: VisualTokens, scores: Tensor | None, k: int, generator: torch.Generator) -> Tensor:
        """Greedy picks."""
        if not self.is_greedy and scores is not None:
            return top_k(scores, k)
        return self._greedy([(tokens.projected, scores, k)])[0]

    def select(
        self,
        tokens: VisualTokens,
        budget: BudgetLike,
        generator: torch.Generator,
        scores: Tensor | None = None,
    ) -> Selection:
        """As described by `Selector.select`, with the greedy steps of all tiles at once."""
        if not self.is_greedy or type(self).pick is not GreedySelector.pick:
            return super().select(tokens, budget, generator, scores)
        return GreedySelector.select_many(self, [tokens], budget, [generator], [scores])[0]

    @torch.no_grad()
    def select_many(
        self,
        tokens: Sequence[VisualTokens],
        budget: BudgetLike,
        generators: Sequence[torch.Generator],
        scores: Sequence[Tensor | None] | None = None,
    ) -> list[Selection]:
        """Score image by image, so that scores do not depend on the batch, then run all greedy steps together."""
        if not self.is_greedy:
            return super().select_many(tokens, budget, generators, scores)
        known = [None] * len(tokens) if scores is None else scores
        jobs = [self._job(t, budget, g, s) for t, g, s in zip(tokens, generators, known, strict=True)]
        picks = iter(self._greedy([
            (job.tokens.projected if group.index is None else job.tokens.projected.index_select(0, group.index),
             job.rated(group), group.k)
            for job in jobs for group in job.open
        ]))  # fmt: skip
        return [job.finish(picks) for job in jobs]

    def pair_flops(self, tokens: VisualTokens, budget: BudgetLike) -> int:
        """FLOPs of the cosines of competing tokens; about half of the pairs are computed.

        Args:
            tokens: the image.
            budget: number of tokens to keep.
        """
        width = tokens.projected.shape[1]
        sizes = self.competing(tokens, budget)
        return sum(linear(pair_area(n, width, tokens.device), width, 1) for n in sizes)

    def _greedy(self, sets: Sequence[tuple[Tensor, Tensor | None, int]]) -> list[Tensor]:
        """Greedy picks from sets of (features [n, D], scores [n], k)."""
        weights = [weight for _, scores, _ in sets if (weight := self.weights(scores)) is not None]
        rows, ks = [features for features, _, _ in sets], [k for _, _, k in sets]
        return greedy_many(rows, ks, weights or None, combine=self.combine)

# ruff: noqa: D101, D102 - the class names describe the selectors
"""The contract suite itself: each check detects the selector that violates it."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from zoo_exp.core.tokens import Selection
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import ScoreSelector, Selector
from zoo_exp.testing import CHECKS, ContractError, check_selector, sample_tokens


@dataclass(frozen=True)
class Good(ScoreSelector):
    """The longest features."""

    name = "good"

    def score(self, tokens, generator):
        return tokens.projected.float().norm(dim=-1)


class Short(Good):
    def pick(self, tokens, scores, k, generator):
        return super().pick(tokens, scores, k, generator)[1:]


class Repeating(Selector):
    name = "repeating"

    def pick(self, tokens, scores, k, generator):
        return torch.zeros(k, dtype=torch.int64)


class GlobalRandom(Good):
    def score(self, tokens, generator):
        return torch.rand(tokens.count)


class SecretlyRandom(Good):
    equivariant = False

    def score(self, tokens, generator):
        return torch.rand(tokens.count, generator=generator)


class ByPosition(Good):
    def score(self, tokens, generator):
        return torch.arange(tokens.count).float()


class Mutating(Good):
    def score(self, tokens, generator):
        return super().score(tokens, generator) + tokens.keys.mul_(2).sum() * 0


class Unnamed(Good):
    """Looks at the keys without a need."""

    def score(self, tokens, generator):
        if tokens.keys is None:
            return super().score(tokens, generator)
        return tokens.keys.norm(dim=-1)


class NotFinite(Good):
    def score(self, tokens, generator):
        return 1 / super().score(tokens, generator)


class HalfBlind(Good):
    """Cannot compute in bfloat16."""

    def score(self, tokens, generator):
        if tokens.projected.dtype == torch.bfloat16:
            return torch.full((tokens.count,), torch.nan)
        return super().score(tokens, generator)


class Careless(Good):
    def check(self, tokens):
        pass


class WithBatch(Good):
    """Its batched version looks at the company."""

    def select_many(self, tokens, budget, generators):
        answers = super().select_many(tokens, budget, generators)
        return [Selection(a.indices, None if a.scores is None else a.scores * len(answers)) for a in answers]


class Whole(Good):
    """Scales its scores over newlines too, which an addition to the scores then lets through."""

    equivariant = False

    def score(self, tokens, generator):
        return (super().score(tokens, generator) - tokens.projected.float().mean(dim=0).norm()).abs()


class Longer(Good):
    def score(self, tokens, generator):
        return torch.cat([super().score(tokens, generator), torch.ones(1)])


class Trusting(Good):
    """Takes any scores that it is given."""

    def select(self, tokens, budget, generator, scores=None):
        return super().select(tokens, budget, generator, None if scores is None else scores[: tokens.count])


class Greedy(Good):
    """Keeps a newline."""

    def plan(self, tokens, budget):
        return super().plan(dataclasses.replace(tokens, tile=None), budget)


BROKEN = {
    Short: "count_and_order",
    Repeating: "count_and_order",
    GlobalRandom: "determinism",
    SecretlyRandom: "determinism",
    ByPosition: "permutation",
    Mutating: "inputs_untouched",
    Unnamed: "needs",
    NotFinite: "degenerate_features",
    HalfBlind: "half_precision",
    Careless: "bad_features",
    WithBatch: "batches",
    Greedy: "tiles",
    Whole: "newlines",
    Longer: "scores",
}


def test_a_correct_selector_passes():
    check_selector(Good())


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_selector_is_detected(rule):
    with pytest.raises(ContractError, match=rule.name):
        CHECKS[BROKEN[rule]](rule())
    with pytest.raises(ContractError):
        check_selector(rule())


def test_scores_of_a_wrong_length_are_refused():
    with pytest.raises(
        InvalidValueError, match=r"selector good \(Longer\) must score .* expected shape \(48,\), got \(49,\)"
    ):
        Longer().select(sample_tokens(), 5, torch.Generator())
    with pytest.raises(ContractError, match="49 scores for 48 visual tokens must be refused"):
        CHECKS["scores"](Trusting())


def test_every_check_of_the_result_detects_an_error():
    assert set(CHECKS) - set(BROKEN.values()) == {"everything_and_nothing"}


def test_a_selector_without_checks_is_detected():
    class Endless(Good):
        def plan(self, tokens, budget):
            return super().plan(tokens, min(budget, tokens.count) if isinstance(budget, int) else budget)

    with pytest.raises(ContractError, match=r"budget 49 .* must be refused"):
        CHECKS["everything_and_nothing"](Endless())


def test_sample_images_fill_every_field():
    tokens = sample_tokens()
    empty = [f.name for f in dataclasses.fields(tokens) if getattr(tokens, f.name) is None]
    assert empty == ["tile", "tiles"]  # what only tiled images have

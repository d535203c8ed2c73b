"""Which tokens a thinned prompt of training keeps: even draws, leaning ones, and spread ones."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.embedded.world2.subsets import direction_scores, spread, subset


def slow_spread(features, scores, count, power, first):
    """The same for one image, with every distance looked up again."""
    share = (scores - scores.min()) / (scores.max() - scores.min())
    weights = (0.05 + 0.95 * share) ** power
    unit = features / features.norm(dim=1, keepdim=True)
    chosen = [first]
    while len(chosen) < count:
        values = [
            -1.0
            if token in chosen
            else float(weights[token] * min(1 - unit[token] @ unit[c] for c in chosen))
            for token in range(len(features))
        ]
        chosen.append(max(range(len(features)), key=values.__getitem__))
    return chosen


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_spread_tokens_are_those_of_the_slow_greedy_choice(power):
    torch.manual_seed(0)
    features, scores = torch.randn(3, 20, 8), torch.randn(3, 20)
    found = spread(features, scores, 9, power).tolist()
    for image in range(3):
        assert found[image] == slow_spread(features[image], scores[image], 9, power, found[image][0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 24), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_a_subset_has_its_size_in_order_without_repetition(count, seed, uneven, equal):
    torch.manual_seed(seed)
    features = torch.ones(2, 24, 8) if equal else torch.randn(2, 24, 8)
    kept = subset(features, count, random.Random(seed), uneven)
    assert kept.shape == (2, count)
    assert (kept[:, 1:] > kept[:, :-1]).all()
    assert ((kept >= 0) & (kept < 24)).all()


def test_an_even_draw_is_that_of_earlier_runs():
    """A run from before uneven subsets resumes with the same batches: neither generator draws more than it did."""
    features, rng = torch.randn(2, 30, 8), random.Random(1)
    torch.manual_seed(5)
    kept, later = subset(features, 7, rng), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(kept, torch.rand(2, 30).argsort(1)[:, :7].sort(1).values)
    assert torch.equal(later, torch.rand(1))
    assert rng.random() == random.Random(1).random()


def test_uneven_subsets_differ_from_even_ones_in_what_they_keep():
    """Leaning ones lie further along a direction; spread ones lie further from each other."""
    torch.manual_seed(0)
    groups = torch.randn(1, 6, 16).repeat_interleave(20, 1) + 0.1 * torch.randn(1, 120, 16)
    scores = direction_scores(groups)
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    covered = {name: [] for name in ("even", "spread")}
    for _ in range(30):
        even = subset(groups, 6, random.Random(0))
        covered["even"].append(len({token // 20 for token in even[0].tolist()}))
        covered["spread"].append(len({token // 20 for token in spread(groups, scores, 6, 0.0)[0].tolist()}))
    assert min(covered["spread"]) == 6 > max(covered["even"][:10])


def test_a_leaning_subset_shifts_the_mean_of_its_features():
    """The features' mean of what stays is further from that of the image than under even draws."""

    def shift(uneven, seed):
        torch.manual_seed(seed)
        features = torch.randn(1, 400, 4)
        kept = subset(features, 200, random.Random(seed), uneven)  # too many to be spread out
        return float(features[0, kept[0]].mean(0).norm())

    even, leaning = ([shift(uneven, seed) for seed in range(20)] for uneven in (0.0, 1.0))
    assert sum(leaning) > 2 * sum(even)

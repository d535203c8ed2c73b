"""Rank correlation, threshold and effective rank against simple reference implementations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.evaluation.kept_set import above, effective_rank, overlap, spearman


def ranks(values):
    """Mean rank of each value, by counting."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_spearman_is_the_correlation_of_ranks(pairs):
    a, b = ([float(p[i]) for p in pairs] for i in (0, 1))
    value = spearman(torch.tensor(a), torch.tensor(b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(value)
        return
    table = torch.tensor([ranks(a), ranks(b)])
    assert value == pytest.approx(float(torch.corrcoef(table)[0, 1]), abs=1e-6)


def test_two_tokens_have_no_correlation():
    assert math.isnan(spearman(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])))


def test_the_threshold_is_halfway_between_lowest_and_highest():
    assert above(torch.tensor([10.0, 14.0, 15.0, 20.0]), 0.5).tolist() == [2, 3]
    assert above(torch.ones(3), 0.5).tolist() == [0, 1, 2]


def test_effective_rank_counts_directions():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 3, generator=generator)).Q.T
    assert effective_rank(basis) == pytest.approx(3.0)
    # Length does not count, and a second copy adds no direction.
    assert effective_rank(torch.cat([basis, 7 * basis])) == pytest.approx(3.0)
    assert effective_rank(torch.zeros(0, 8)) == 0.0
    assert effective_rank(torch.zeros(2, 8)) == pytest.approx(1.0)


def test_overlap_is_the_jaccard_index():
    assert overlap(torch.tensor([0, 1, 2]), torch.tensor([2, 3])) == 0.25
    assert math.isnan(overlap(torch.tensor([]), torch.tensor([])))

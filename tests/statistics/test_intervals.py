"""Intervals against what is known exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.intervals import (
    Interval,
    design_effect,
    holm,
    minimum_detectable_difference,
    seed_spread,
    sign_test,
    twice_median,
    wilson,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_agrees_with_scipy(n, data):
    right = data.draw(st.integers(0, n))
    ours = wilson(right / n, n)
    theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_is_never_empty_and_widens_with_clusters():
    assert wilson(1.0, 50).low < 1.0
    assert wilson(0.0, 50).high > 0.0
    # Four identical answers per image carry the information of one.
    assert wilson(0.5, 400, design_effect=4) == wilson(0.5, 100)


@pytest.mark.parametrize("arguments", [(1.1, 10), (-0.1, 10), (0.5, 0), (0.5, 10, 0.0)])
def test_wilson_refuses(arguments):
    with pytest.raises(InvalidValueError, match="allowed are"):
        wilson(*arguments)


def test_design_effect_counts_copies():
    answers = np.random.default_rng(0).integers(0, 2, 500).astype(float)
    assert design_effect(np.repeat(answers, 4), np.repeat(np.arange(500), 4)) == pytest.approx(4)
    assert design_effect(answers, np.arange(500)) == pytest.approx(1)
    assert design_effect(np.ones(8), np.zeros(8, int)) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_sign_test_of_right_and_wrong_is_mcnemars(pairs):
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    test = sign_test(first, second)
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    assert (test.first, test.second) == (only_first, only_second)
    assert test.p_value == pytest.approx(min(1.0, 2 * tail))
    assert sign_test(second, first).p_value == pytest.approx(test.p_value)


def test_the_sign_test_needs_pairs():
    with pytest.raises(InvalidValueError, match="paired scores"):
        sign_test([True], [True, False])


def test_the_sign_test_counts_which_score_is_higher():
    test = sign_test([0.3, 1.0, 0.6, 0.5], [0.0, 0.9, 0.6, 1.0])
    assert (test.first, test.second, test.p_value) == (2, 1, 1.0)


def test_holm_by_hand_and_never_below_the_plain_values():
    values = [0.04, 0.001, 0.03, 0.2]
    assert holm(values) == pytest.approx([0.09, 0.004, 0.09, 0.2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_combined_p_values_keep_their_level():
    assert twice_median([0.2]) == 0.2
    generator = np.random.default_rng(0)
    # One shared and one own part: dependent p values, each uniform.
    shared = generator.standard_normal((20_000, 1))
    z = 0.8 * shared + 0.6 * generator.standard_normal((20_000, 3))
    values = 2 * stats.norm.sf(np.abs(z))
    assert np.mean([twice_median(list(row)) < 0.05 for row in values]) <= 0.05


def test_detectable_difference_is_found_with_the_stated_power():
    size = minimum_detectable_difference(1.0, power=0.8)
    observed = size + np.random.default_rng(0).standard_normal(40_000)
    assert (observed > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.01)


def test_spread_between_seeds():
    assert seed_spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert math.isnan(seed_spread([1.0]))


def test_excludes():
    assert Interval(0.1, 0.2).excludes(0)
    assert Interval(-0.2, -0.1).excludes(0)
    assert not Interval(0.0, 0.2).excludes(0)

"""The bootstrap against slow resampling, known variances, and its own promises."""

import numpy as np
import pytest

from zoo_exp.statistics import bootstrap
from zoo_exp.statistics.bootstrap import (
    LinearisedStatistic,
    TallyStatistic,
    draw,
    linearised_statistic,
    mean_statistic,
    percentile_interval,
    retained,
)

IMAGES = [f"image-{n}" for n in range(60)]


def clustered(seed=0, images=60, arms=3):
    generator = np.random.default_rng(seed)
    clusters = np.sort(np.concatenate([np.arange(images), generator.integers(0, images, 2 * images)]))
    scores = (generator.random((len(clusters), arms)) < 0.6).astype(float)
    return scores, clusters


def test_a_draw_is_the_mean_over_the_drawn_questions():
    scores, clusters = clustered()
    statistic = mean_statistic(scores, clusters, scale=100.0)
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=20).astype(float)
    for row, got in zip(weights, statistic.resampled(weights), strict=True):
        drawn = np.concatenate([np.flatnonzero(clusters == g) for g in range(60) for _ in range(int(row[g]))])
        np.testing.assert_allclose(got, 100 * scores[drawn].mean(0))
    np.testing.assert_allclose(statistic.value, 100 * scores.mean(0))


def test_the_spread_is_the_standard_error_known_from_theory():
    scores = (np.random.default_rng(0).random((1000, 1)) < 0.3).astype(float)
    draws = draw(mean_statistic(scores, np.arange(1000)), [str(n) for n in range(1000)], draws=4000)
    p = scores.mean()
    assert draws.std() == pytest.approx(np.sqrt(p * (1 - p) / 1000), rel=0.04)


def test_copies_of_a_question_add_no_certainty():
    scores = (np.random.default_rng(0).random((100, 1)) < 0.5).astype(float)
    names = [str(n) for n in range(100)]
    once = draw(mean_statistic(scores, np.arange(100)), names)
    often = draw(mean_statistic(np.repeat(scores, 5, 0), np.repeat(np.arange(100), 5)), names)
    np.testing.assert_allclose(once, often)


def test_pairing_makes_differences_sharp():
    generator = np.random.default_rng(0)
    hard = generator.random(800)
    scores = np.stack([hard < 0.70, hard < 0.73], axis=1).astype(float)
    draws = draw(mean_statistic(scores, np.arange(800)), [str(n) for n in range(800)])
    unpaired = np.hypot(*draws.std(0))
    assert (draws[:, 1] - draws[:, 0]).std() < 0.4 * unpaired


def test_same_images_same_draws_whatever_the_chunk(monkeypatch):
    scores, clusters = clustered()
    statistic = mean_statistic(scores, clusters)
    whole = draw(statistic, IMAGES, draws=300, seed=3)
    monkeypatch.setattr(bootstrap, "WEIGHTS_PER_CHUNK", 60 * 7)
    np.testing.assert_array_equal(draw(statistic, IMAGES, draws=300, seed=3), whole)
    assert not np.array_equal(draw(statistic, IMAGES, draws=300, seed=4), whole)
    assert not np.array_equal(draw(statistic, IMAGES[::-1], draws=300, seed=3), whole)


def f1(said, gold):
    return 2 * (said & gold).sum() / max(1, said.sum() + gold.sum())


def test_linearised_f1_spreads_like_the_slow_bootstrap():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(80), 4)
    gold = generator.random(320) < 0.5
    said = np.where(generator.random(320) < 0.8, gold, ~gold)
    statistic = linearised_statistic(lambda _, rows: f1(said[rows], gold[rows]), 1, clusters)
    fast = draw(statistic, [str(n) for n in range(80)], draws=3000)[:, 0]
    slow = []
    for _ in range(3000):
        rows = np.concatenate([np.arange(4 * g, 4 * g + 4) for g in generator.integers(0, 80, 80)])
        slow.append(f1(said[rows], gold[rows]))
    assert statistic.value[0] == f1(said, gold)
    counts = np.stack([said & gold, said, gold], axis=1).reshape(80, 4, 3).sum(1)[:, :, None].astype(float)
    exact = TallyStatistic(statistic.value, counts, lambda s: 2 * s[:, 0] / (s[:, 1] + s[:, 2]))
    sums = draw(exact, [str(n) for n in range(80)], draws=3000)[:, 0]
    # The same draws: linearising errs by a small part of the spread.
    assert np.abs(sums - fast).mean() < 0.05 * fast.std()
    assert sums.std() == pytest.approx(np.std(slow), rel=0.05)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.06)
    np.testing.assert_allclose(
        np.quantile(fast, [0.025, 0.975]), np.quantile(slow, [0.025, 0.975]), atol=0.01
    )


def test_linearising_a_mean_is_nearly_exact():
    scores, clusters = clustered()
    exact = draw(mean_statistic(scores, clusters), IMAGES)
    linear = linearised_statistic(lambda arm, rows: scores[rows, arm].mean(), 3, clusters)
    np.testing.assert_allclose(linear.influence.sum(0), 0, atol=1e-12)
    assert np.abs(draw(linear, IMAGES) - exact).mean() < 0.1 * exact.std()
    assert draw(linear, IMAGES).std(0) == pytest.approx(exact.std(0), rel=0.06)


def test_many_images_are_dealt_into_few_groups():
    generator = np.random.default_rng(0)
    scores = (generator.random((2000, 1)) < 0.4).astype(float)
    calls = []

    def metric(arm, rows):
        calls.append(arm)
        return scores[rows, arm].mean()

    statistic = linearised_statistic(metric, 1, np.arange(2000), max_groups=100)
    assert len(calls) == 101
    spread = draw(statistic, [str(n) for n in range(2000)], draws=4000).std()
    assert spread == pytest.approx(scores.std() / np.sqrt(2000), rel=0.2)


def test_one_image_gives_no_spread_and_a_metric_stays_above_zero():
    alone = linearised_statistic(lambda _, rows: float(len(rows)), 2, np.zeros(5, int))
    np.testing.assert_array_equal(draw(alone, ["a"], draws=10), 5.0)
    low = LinearisedStatistic(np.array([0.01]), np.array([[0.5], [-0.5]]))
    assert (draw(low, ["a", "b"], draws=50) >= 0).all()


def test_retained_average_by_hand():
    tasks = [np.array([[0.8, 0.4]]), np.array([[1500.0, 1200.0]])]
    np.testing.assert_allclose(retained(tasks, 0), [[100.0, (50 + 80) / 2]])
    assert np.isnan(retained([np.array([[0.0, 0.4]])], 0)).all()


def test_the_interval_of_a_difference_covers_the_truth():
    """95 % within what 400 trials can tell: 3 standard errors are 3.3 points."""
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(400):
        luck = generator.normal(0, 0.1, 80).repeat(3)
        hard = generator.random(240)
        scores = np.stack([hard < 0.7 + luck, hard < 0.6 + luck], axis=1).astype(float)
        draws = draw(
            mean_statistic(scores, np.arange(80).repeat(3)), [f"{trial}-{n}" for n in range(80)], 400
        )
        covered += not percentile_interval(draws[:, 0] - draws[:, 1]).excludes(0.1)
    assert 0.95 - 0.033 < covered / 400 < 0.95 + 0.033


def test_a_few_draws_without_a_value_are_left_out_and_many_are_not():
    values = np.arange(1000.0)
    values[:5] = np.nan
    interval = percentile_interval(values)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(values[5:], [0.025, 0.975]))
    values[:20] = np.nan
    assert np.isnan(percentile_interval(values).low)

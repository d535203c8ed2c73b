"""The bootstrap against slow resampling and known variances."""

import numpy as np
import pytest
from scipy import stats

from zoo_exp import tasks
from zoo_exp.statistics import bootstrap
from zoo_exp.statistics.bootstrap import Statistic, expanded_tail, percentile_interval, retained, weights
from zoo_exp.statistics.tallies import metric_intervals

IMAGES = [f"image-{n}" for n in range(60)]


def mean_of(scores, clusters, images=None):
    """The mean score of each arm as a statistic."""
    groups = int(clusters.max()) + 1
    sums = np.zeros((groups, 2, scores.shape[1]))
    np.add.at(sums[:, 0], clusters, scores)
    sums[:, 1] = np.bincount(clusters)[:, None]
    names = images or [str(n) for n in range(groups)]
    return Statistic(("score", "n"), sums, names, lambda s: {"mean": s["score"] / s["n"]})


def drawn(statistic, draws=2000, seed=0, metric="mean"):
    return statistic.of(statistic.draw(draws, seed), metric)


def clustered(seed=0, images=60, arms=3):
    generator = np.random.default_rng(seed)
    clusters = np.sort(np.concatenate([np.arange(images), generator.integers(0, images, 2 * images)]))
    scores = (generator.random((len(clusters), arms)) < 0.6).astype(float)
    return scores, clusters


def test_weights_are_poisson_and_independent_between_images():
    found = weights([f"image-{n}" for n in range(400)], 1000, seed=0)
    counts = np.bincount(found.astype(int).ravel(), minlength=8) / found.size
    np.testing.assert_allclose(counts[:5], stats.poisson.pmf(range(5), 1), atol=0.003)
    assert found.mean(0) == pytest.approx(1, abs=0.17)  # 5 standard errors of one image
    correlations = np.corrcoef(found[:, :40].T)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(1000)
    assert correlations.mean() == pytest.approx(0, abs=0.005)


def test_weights_depend_on_seed_draw_and_name_only():
    whole = weights(IMAGES, 300, seed=3)
    np.testing.assert_array_equal(weights(IMAGES[20:30], 300, seed=3), whole[:, 20:30])
    np.testing.assert_array_equal(weights(IMAGES[::-1], 300, seed=3), whole[:, ::-1])
    np.testing.assert_array_equal(weights(IMAGES, 100, seed=3), whole[:100])
    assert not np.array_equal(weights(IMAGES, 300, seed=4), whole)


def test_weights_are_the_same_on_every_machine():
    assert weights(["embedded/test-00000", "gqa/n1"], 8, seed=0).tolist() == [
        [0, 1],
        [1, 1],
        [1, 0],
        [0, 2],
        [0, 0],
        [1, 1],
        [0, 0],
        [0, 2],
    ]


def test_a_draw_is_the_mean_over_the_drawn_questions():
    scores, clusters = clustered()
    statistic = mean_of(scores, clusters, IMAGES)
    for row, got in zip(weights(IMAGES, 20, seed=0), drawn(statistic, 20), strict=True):
        picked = np.concatenate(
            [np.flatnonzero(clusters == g) for g in range(60) for _ in range(int(row[g]))]
        )
        np.testing.assert_allclose(got, scores[picked].mean(0))
    np.testing.assert_allclose(statistic.value("mean"), scores.mean(0))


def test_the_spread_is_the_standard_error_known_from_theory():
    scores = (np.random.default_rng(0).random((1000, 1)) < 0.3).astype(float)
    p = scores.mean()
    spread = drawn(mean_of(scores, np.arange(1000)), 4000).std()
    assert spread == pytest.approx(np.sqrt(p * (1 - p) / 1000), rel=0.04)


def test_duplicate_questions_do_not_narrow_the_interval():
    scores = (np.random.default_rng(0).random((100, 1)) < 0.5).astype(float)
    once = drawn(mean_of(scores, np.arange(100)))
    often = drawn(mean_of(np.repeat(scores, 5, 0), np.repeat(np.arange(100), 5)))
    np.testing.assert_allclose(once, often)


def test_pairing_narrows_intervals_of_differences():
    generator = np.random.default_rng(0)
    hard = generator.random(800)
    scores = np.stack([hard < 0.70, hard < 0.73], axis=1).astype(float)
    draws = drawn(mean_of(scores, np.arange(800)))
    unpaired = np.hypot(*draws.std(0))
    assert (draws[:, 1] - draws[:, 0]).std() < 0.4 * unpaired


def test_same_draws_whatever_the_chunk(monkeypatch):
    scores, clusters = clustered()
    statistic = mean_of(scores, clusters, IMAGES)
    whole = drawn(statistic, draws=300, seed=3)
    monkeypatch.setattr(bootstrap, "WEIGHTS_PER_CHUNK", 300 * 7)
    np.testing.assert_allclose(drawn(statistic, draws=300, seed=3), whole, rtol=1e-12)


def test_tasks_that_share_some_images_share_their_draws():
    """The spread of an average over two tasks is that of the pooled questions, not that of independent tasks."""
    generator = np.random.default_rng(0)
    luck = generator.random(500)
    names = [f"scene-{n}" for n in range(500)]
    first, second = ((luck[own, None] < 0.5).astype(float) for own in (np.arange(0, 450), np.arange(50, 500)))
    a = drawn(mean_of(first, np.arange(450), names[:450]))[:, 0]
    b = drawn(mean_of(second, np.arange(450), names[50:]))[:, 0]
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(400 / 450, abs=0.03)
    apart = drawn(mean_of(second, np.arange(450), [f"other/{name}" for name in names[50:]]))[:, 0]
    assert abs(np.corrcoef(a, apart)[0, 1]) < 0.1


def test_image_names_are_shared_by_embedded_tasks_and_by_no_others():
    keys = {name: tasks.get(name).image_key("0") for name in tasks.available()}
    assert len({key for name, key in keys.items() if name.startswith("embedded_")}) == 1
    assert keys["scienceqa_img"] != keys["mmbench_en_dev_static"] != keys["embedded_gqa"]
    coco = {
        tasks.get("pope").image_key("COCO_val2014_000000310196"),
        tasks.get("vqav2_val").image_key("310196"),
    }
    assert len(coco) == 1


def pope_rows(images=80, per_image=4, seed=0):
    """Responses of one arm to POPE's questions."""
    generator = np.random.default_rng(seed)
    gold = generator.random(images * per_image) < 0.5
    said = np.where(generator.random(len(gold)) < 0.8, gold, ~gold)
    word = np.array(["no", "yes"])
    return [
        {"sample_id": str(n), "image_id": str(n // per_image), "score": float(a == b), "category": "random"}
        | {"prediction": str(word[int(a)]), "ground_truth": str(word[int(b)])}
        for n, (a, b) in enumerate(zip(said, gold, strict=True))
    ]


def test_the_interval_of_an_f1_is_that_of_slow_resampling():
    task, rows = tasks.get("pope"), pope_rows()
    found = metric_intervals(task, rows, draws=4000)["pope_f1_score"]
    generator, slow = np.random.default_rng(1), []
    for _ in range(800):
        picked = [row for image in generator.integers(0, 80, 80) for row in rows[4 * image : 4 * image + 4]]
        copies = [{**row, "sample_id": str(n)} for n, row in enumerate(picked)]
        slow.append(task.aggregate(copies)["pope_f1_score"])
    tail = expanded_tail(80)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [tail, 1 - tail])), abs=0.01)


def test_retained_average_by_hand():
    both = [np.array([[0.8, 0.4]]), np.array([[1500.0, 1200.0]])]
    np.testing.assert_allclose(
        np.mean([retained(task, 0) for task in both], axis=0), [[100.0, (50 + 80) / 2]]
    )
    assert np.isnan(retained(np.array([[0.0, 0.4]]), 0)).all()


def test_the_expanded_percentile_interval_of_a_mean_is_students():
    """The interval of normal data has the length of the classic t interval."""
    scores = np.random.default_rng(0).standard_normal((20, 1))
    interval = percentile_interval(drawn(mean_of(scores, np.arange(20)), 40_000)[:, 0], 20)
    half = stats.t.ppf(0.975, 19) * scores.std(ddof=1) / np.sqrt(20)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_few_draws_without_a_value_are_ignored():
    values = np.linspace(0, 1, 1000)
    few, many = values.copy(), values.copy()
    few[:9], many[:20] = np.nan, np.nan
    assert percentile_interval(few, 1000).low == pytest.approx(0.034, abs=0.002)
    assert np.isnan(percentile_interval(many, 1000).low)
    few[-30:] = np.inf
    assert percentile_interval(few, 1000).high == np.inf


def test_the_interval_of_a_difference_covers_the_truth():
    """95 % within what 400 trials can tell: 3 standard errors are 3.3 points."""
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(400):
        luck = generator.normal(0, 0.1, 80).repeat(3)
        hard = generator.random(240)
        scores = np.stack([hard < 0.7 + luck, hard < 0.6 + luck], axis=1).astype(float)
        names = [f"{trial}-{n}" for n in range(80)]
        draws = drawn(mean_of(scores, np.arange(80).repeat(3), names), 400)
        covered += not percentile_interval(draws[:, 0] - draws[:, 1], 80).excludes(0.1)
    assert 0.95 - 0.033 < covered / 400 < 0.95 + 0.033

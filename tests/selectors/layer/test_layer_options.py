"""Budgets, schedules and options of the layer selectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.models.row_attention import RowAttention
from zoo_exp.models.segments import whole_prompt
from zoo_exp.selectors import get
from zoo_exp.selectors.layer.base import layer_average
from zoo_exp.selectors.layer.density_peaks import merge_by_density
from zoo_exp.selectors.layer.fastv import FastV
from zoo_exp.selectors.layer.sparsevlm import STAGES, SparseVLM
from zoo_exp.testing import sample_tokens


def counts_per_layer(selector, budget, n_visual, n_layers, merged=lambda dropped: 0):
    """Visual tokens at the input of each layer, from the schedule alone."""
    seen, counts = n_visual, []
    stages = selector.schedule(budget, n_visual, n_layers)
    for layer in range(n_layers):
        counts.append(seen)
        if layer in stages:
            # A stage of SparseVLM always drops a token, as in the release.
            kept = min(stages[layer], seen - (selector.name == "sparsevlm"))
            seen = kept + merged(seen - kept)
    return counts


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(200, 576))
def test_fastv_reaches_the_layer_average(k, budget):
    selector = FastV(k=k, budget_of="layer_average")
    counts = counts_per_layer(selector, budget, 576, 32)
    assert abs(layer_average(counts) - budget) <= 0.5


def test_fastv_layer_average_of_the_tables():
    for k, kept in ((2, (166, 98, 30)), (3, (152, 82, 11))):
        selector = FastV(k=k, budget_of="layer_average")
        found = tuple(selector.schedule(budget, 576, 32)[k - 1] for budget in (192, 128, 64))
        assert all(abs(a - b) <= 1 for a, b in zip(found, kept, strict=True))


def test_fastv_cannot_go_below_its_full_layers():
    with pytest.raises(InvalidValueError, match=r"alone make a layer average of 72\.0; give 72 or more"):
        FastV(k=4, budget_of="layer_average").schedule(64, 576, 32)


def merged_of(selector):
    """What SparseVLM merges, as a function of the dropped."""
    recycles = getattr(selector, "recycles", False)
    return lambda dropped: (int(dropped * 0.3) + 1) // 10 + 1 if recycles and dropped else 0


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(["fastv", "fastv k=1", "dart", "sparsevlm", "sparsevlm 2.0"]),
    st.integers(8, 40),
    st.sampled_from([144, 576, 729]),
    st.data(),
)
def test_a_budget_in_the_mean_is_reached(which, n_layers, n_visual, data):
    """The mean over the layers' inputs is the budget, up to half a token behind the last stage (DART: half a step)."""
    options = {"fastv k=1": {"k": 1}, "sparsevlm 2.0": {"version": "2.0"}}.get(which, {})
    selector = get(which.split()[0], **options)
    budget = data.draw(st.integers(n_visual // 3, n_visual))
    text = f"{budget} mean"
    if which == "dart":
        stages = selector.schedule(text, n_visual, n_layers)
        count = stages[1]
        kept = count if count in (n_visual, *range(5)) else 4 + 8 * (count // 8)
        mean = (2 * n_visual + (n_layers - 2) * kept) / n_layers
        assert abs(mean - budget) <= 4 or kept >= n_visual - 8
        return
    mean = layer_average(counts_per_layer(selector, text, n_visual, n_layers, merged_of(selector)))
    whole = layer_average(
        counts_per_layer(selector, f"{n_visual} mean", n_visual, n_layers, merged_of(selector))
    )
    assert whole >= n_visual - 3
    assert abs(mean - min(budget, whole)) <= 0.5, mean


def test_a_budget_in_the_mean_is_the_published_one():
    """SparseVLM's tables count FastV so; and two readings of one count are the same arm."""
    assert FastV(k=3).schedule("64 mean", 576, 32) == FastV(k=3, budget_of="layer_average").schedule(
        64, 576, 32
    )
    assert FastV(k=2).schedule("11.1% mean", 576, 32) == FastV(k=2).schedule("64 mean", 576, 32)
    counts = counts_per_layer(SparseVLM(), "64 mean", 576, 32, merged_of(SparseVLM()))
    assert layer_average(counts) == pytest.approx(64, abs=0.5)  # the schedule named 64 makes 82.3
    assert get("divprune").select(sample_tokens(), "9 mean", torch.Generator()).kept_tokens == 9


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("fastv", r"layer average of 72\.0; give 72 or more"),
        ("dart", r"layer average of 72\.0; give 72 or more"),
    ],
)
def test_a_mean_below_the_full_layers_is_refused(name, least):
    """Two full layers of four."""
    with pytest.raises(InvalidValueError, match=least):
        get(name).schedule("64 mean", 144, 4)
    assert get(name).schedule("72 mean", 144, 4) == {1: 0}


def test_sparsevlm_reports_its_smallest_mean():
    """144 tokens, then 1 and 5 merged ones, then 1 and 1 in two layers: 154 over 4 layers."""
    with pytest.raises(
        InvalidValueError, match=r"smallest possible mean over 4 layers is 38\.5; give 39 or more"
    ):
        SparseVLM().schedule("20 mean", 144, 4)
    assert SparseVLM().schedule("39 mean", 144, 4)
    with pytest.raises(InvalidValueError, match=r"use version 1\.5 or 2\.0"):
        SparseVLM(version="1.0").schedule("64 mean", 576, 32)


@pytest.mark.parametrize("version", ["1.5", "2.0"])
def test_sparsevlm_schedules_are_the_released_ones_at_the_released_size(version):
    for budget, counts in STAGES[version].items():
        assert SparseVLM(version=version).schedule(budget, 576, 32) == dict(
            zip((2, 6, 15), counts, strict=True)
        )
        assert SparseVLM(version=version).schedule(budget / 576, 576, 32) == dict(
            zip((2, 6, 15), counts, strict=True)
        )


def test_sparsevlm_output_average_is_the_budget():
    def merged(dropped):
        return (int(dropped * 0.3) + 1) // 10 + 1

    for budget, expected in ((192, 192.03), (128, 128.6), (64, 64.8)):
        counts = counts_per_layer(SparseVLM(), budget, 576, 33, merged)[1:]
        assert layer_average(counts) == pytest.approx(expected, abs=0.1)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["1.5", "2.0"]), st.integers(64, 192), st.integers(4, 60), st.integers(16, 2880))
def test_sparsevlm_scales(version, named, n_layers, n_visual):
    selector = SparseVLM(version=version)
    stages = selector.schedule(named / 576, n_visual, n_layers)
    by_count = selector.schedule(max(1, round(named * n_visual / 576)), n_visual, n_layers)
    assert list(by_count) == list(stages)
    assert list(stages) == sorted(set(stages))
    assert max(stages) < n_layers
    assert all(1 <= count <= n_visual for count in stages.values())


@pytest.mark.parametrize("budget", [10, 300, 1.0, "5%"])
def test_sparsevlm_refuses_what_it_has_no_schedule_for(budget):
    with pytest.raises(InvalidValueError, match="from 64 to 192 of 576"):
        SparseVLM().schedule(budget, 576, 32)
    with pytest.raises(InvalidValueError, match="192, 128 and 64 of 576"):
        SparseVLM(version="1.0").schedule(budget, 576, 32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastv", {"k": 0}, "at least 1"),
        ("fastv", {"k": True}, "at least 1"),
        ("fastv", {"rule": "first"}, "last_token, all_tokens"),
        ("fastv", {"budget_of": "all"}, "kept, layer_average"),
        ("fastv", {"positions": "new"}, "original, contiguous"),
        ("sparsevlm", {"version": "3.0"}, r"1\.0, 1\.5, 2\.0"),
        ("sparsevlm", {"heads": 0}, "at least 1"),
        ("dart", {"image_pivots": 0}, "at least 1"),
        ("dart", {"text_pivots": -1}, "at least 0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(InvalidValueError, match=message):
        get(name, **options)


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "dart"])
def test_every_layer_selector_wants_a_budget_and_a_layer_behind_it(name):
    selector = get(name)
    assert selector.needs == frozenset()
    assert not selector.stochastic
    assert selector.paper
    with pytest.raises(InvalidValueError, match="needs a budget"):
        selector.schedule(None, 576, 32)
    with pytest.raises(InvalidValueError, match="above the 10 visual tokens"):
        selector.schedule(20, 10, 32)
    with pytest.raises(InvalidValueError, match="language model has 2"):
        selector.layers(2)
    with pytest.raises(UnknownNameError, match="option of selector"):
        get(name, kk=1)


def test_sparsevlm_positions_follow_the_version():
    assert SparseVLM().positions == SparseVLM(version="1.0").positions == "contiguous"
    assert SparseVLM(version="2.0").positions == "original"
    assert SparseVLM(positions="original").positions == "original"


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.data())
def test_merging_leaves_weighted_means(n, data):
    clusters = data.draw(st.integers(1, n))
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    merged = merge_by_density(x, clusters)
    assert merged.shape == (clusters, 4)
    if clusters == n:
        ours, theirs = (t[t[:, 0].argsort()] for t in (merged, x))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    if clusters == 1:
        torch.testing.assert_close(merged[0], x.mean(0), atol=1e-4, rtol=1e-4)


def test_gravity_is_the_released_denominator():
    from pathlib import Path

    import numpy as np

    path = Path(__file__).parents[2] / "golden" / "engine" / "sparsevlm_v2_gravity.npz"
    with np.load(path) as golden:
        positions, expected = torch.from_numpy(golden["positions"]), torch.from_numpy(golden["rope_weights"])
    theta = 10000.0 ** (-torch.arange(0, 128, 2) / 128)
    angle = (positions[:, None] * theta).repeat(1, 2)[None]
    n = len(positions)

    class Attention:
        head_dim, num_key_value_groups, scaling = 128, 1, 128**-0.5

    noted = {
        "q_proj": torch.zeros(1, n, 128),
        "k_proj": torch.zeros(1, n, 128),
        "position_embeddings": (angle.cos(), angle.sin()),
    }
    real = torch.ones(1, n, dtype=torch.bool)
    rows = RowAttention(Attention(), noted, whole_prompt(real, real, positions[None]))
    found = rows.gravity(0, torch.arange(n))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)

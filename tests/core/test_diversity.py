"""Greedy max-min selection: the released picks, the definition, ties, batches and memory."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core import diversity
from zoo_exp.core.diversity import cosine_distances, greedy, greedy_many
from zoo_exp.core.fusion import min_max
from zoo_exp.errors import InvalidValueError

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"
CASES = [
    (path.stem, key)
    for path in sorted(GOLDEN.glob("select_*.npz"))
    for key in np.load(path).files
    if key not in ("features", "importance")
]
TIES = {("select_n576_clustered", key) for key in ("sads15_k128", "sads15_k192", "divprune_k192")}
"""Entries that the manifest flags: gaps below 1e-6, where the release's own rounding decides the order."""


@pytest.mark.parametrize(("name", "key"), CASES)
def test_picks_are_the_released_ones(name, key):
    case = np.load(GOLDEN / f"{name}.npz")
    features, importance = torch.from_numpy(case["features"]), torch.from_numpy(case["importance"])
    rule, k = re.fullmatch(r"(\w+)_k(\d+)", key).groups()
    # Where importance is constant, the NeXT file gives weight 0 to all tokens, the LLaVA-1.5 file weight 1.
    weights = {
        "divprune": None,
        "sads15": min_max(importance),
        "sadsnext": min_max(importance, constant=0.0),
    }[rule]
    picks = greedy(features, int(k), weights).tolist()
    if (name, key) in TIES:
        assert set(picks) == set(case[key].tolist())
    else:
        assert picks == case[key].tolist()


def by_definition(embeddings, k, weights=None, combine="multiply"):
    """O(N^2 K), one pair at a time in exact float64 cosines; the lowest index of the best scores."""
    rows = [r / max(r.norm().item(), 1e-8) for r in embeddings.double()]
    n = len(rows)
    distance = [[round((1 - float(rows[i] @ rows[j])) * 2**40) / 2**40 for j in range(n)] for i in range(n)]
    picked = []
    while len(picked) < k:
        best, best_score = None, None
        for i in range(n):
            if i in picked:
                continue
            others = picked or [j for j in range(n) if j != i]
            nearest = max(0.0, min((distance[i][j] for j in others), default=0.0))
            if weights is None:
                score = nearest
            elif not picked:
                score = float(weights[i])
            else:
                score = nearest * float(weights[i]) if combine == "multiply" else nearest + float(weights[i])
            if best is None or np.float32(score) > np.float32(best_score):
                best, best_score = i, score
        picked.append(best)
    return picked


@st.composite
def problems(draw):
    """Small integers, so that duplicates, zero rows, opposite rows and exact ties are common."""
    n, d = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    cell = st.integers(-2, 2)
    rows = draw(st.lists(st.lists(cell, min_size=d, max_size=d), min_size=n, max_size=n))
    weights = draw(st.none() | st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n))
    embeddings = torch.tensor(rows, dtype=torch.float32)
    return embeddings, draw(st.integers(0, n)), None if weights is None else torch.tensor(weights)


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(["multiply", "sum"]))
def test_greedy_equals_its_definition_with_ties(problem, combine):
    embeddings, k, weights = problem
    assert greedy(embeddings, k, weights, combine=combine).tolist() == by_definition(
        embeddings, k, weights, combine
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(0, 999), st.booleans())
def test_greedy_equals_its_definition_on_real_values(n, seed, weighted):
    g = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, 5, generator=g)
    weights = torch.rand(n, generator=g) if weighted else None
    assert greedy(embeddings, n, weights).tolist() == by_definition(embeddings, n, weights)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 50))
def test_scale_and_prefix_do_not_matter(seed, scale):
    """A longer list starts with the shorter one; cosine does not see length."""
    g = torch.Generator().manual_seed(seed)
    embeddings, weights = torch.randn(14, 6, generator=g), torch.rand(14, generator=g)
    for w in (None, weights):
        long = greedy(embeddings, 9, w)
        assert greedy(embeddings, 4, w).tolist() == long[:4].tolist()
        assert greedy(embeddings * scale, 9, w).tolist() == long.tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 99), st.booleans())
def test_batches_pick_as_one_by_one(sizes, seed, weighted):
    g = torch.Generator().manual_seed(seed)
    images = [torch.randn(n, 4, generator=g) for n in sizes]
    ks = [int(torch.randint(0, n + 1, (), generator=g)) for n in sizes]
    weights = [torch.rand(n, generator=g) for n in sizes] if weighted else None
    together = greedy_many(images, ks, weights)
    alone = [
        greedy(e, k, None if weights is None else weights[i])
        for i, (e, k) in enumerate(zip(images, ks, strict=True))
    ]
    assert [p.tolist() for p in together] == [p.tolist() for p in alone]


@pytest.mark.parametrize("weighted", [False, True])
def test_above_the_memory_bound_rows_are_computed_on_demand(monkeypatch, weighted):
    g = torch.Generator().manual_seed(0)
    embeddings = torch.randn(60, 8, generator=g)
    embeddings[17] = embeddings[3]
    weights = torch.rand(60, generator=g) if weighted else None
    expected = greedy(embeddings, 60, weights)
    monkeypatch.setattr(diversity, "MATRIX_BYTES", 1000)
    assert greedy(embeddings, 60, weights).tolist() == expected.tolist()
    both = greedy_many([embeddings, embeddings], [60, 5], None if weights is None else [weights, weights])
    assert both[0].tolist() == expected.tolist()
    assert both[1].tolist() == expected[:5].tolist()


@pytest.mark.parametrize("combine", diversity.COMBINATIONS)
@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_rows_ahead_of_the_picks_change_nothing(monkeypatch, combine, ahead):
    """Also where exact ties are common, and where images of different sizes share the steps."""
    g = torch.Generator().manual_seed(ahead)
    real = [torch.randn(n, 6, generator=g) for n in (80, 61, 70)]
    coarse = [torch.randint(-1, 2, (n, 3), generator=g).float() for n in (80, 61, 70)]
    weights = [torch.rand(n, generator=g) for n in (80, 61, 70)]
    steps = [(4 * w).round() / 4 for w in weights]
    called = []
    original = diversity._rows_ahead
    monkeypatch.setattr(diversity, "_rows_ahead", lambda *a: called.append(1) or original(*a))
    monkeypatch.setattr(diversity, "AHEAD", ahead)
    monkeypatch.setattr(diversity, "AHEAD_MOST", 1)
    for images, rated in ((real, weights), (coarse, steps), (coarse, [torch.ones_like(w) for w in weights])):
        monkeypatch.setattr(diversity, "AHEAD_FROM", 2**40)
        whole = [p.tolist() for p in greedy_many(images, [15, 3, 11], rated, combine=combine)]
        assert not called
        monkeypatch.setattr(diversity, "AHEAD_FROM", 1)
        assert [p.tolist() for p in greedy_many(images, [15, 3, 11], rated, combine=combine)] == whole
        assert called
        called.clear()
    monkeypatch.setattr(diversity, "AHEAD_FROM", 1)
    greedy(real[0], 21, weights[0], combine=combine)  # of 80: all pairs are no dearer
    greedy(real[0], 3)  # the first pick without weights asks for all pairs
    assert not called


def test_blocks_of_the_distance_matrix_fit_together(monkeypatch):
    embeddings = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))
    whole = cosine_distances(embeddings)
    for block in ((10, 8), (37, 3), (10, 3), (1, 1)):
        monkeypatch.setattr(diversity, "_block", lambda *_, block=block: block)
        assert torch.equal(cosine_distances(embeddings), whole)
        assert torch.equal(whole, whole.T)
    expected = 1 - torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)


def test_a_duplicate_is_picked_last_and_lowest_index_first():
    embeddings = torch.tensor([[1.0, 0], [1, 0], [0, 1], [2, 0], [0, 3]])
    assert greedy(embeddings, 5).tolist() == [0, 2, 1, 3, 4]


def test_a_zero_row_is_far_from_everything():
    embeddings = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 0], [0.8, 0.3]])
    assert greedy(embeddings, 2).tolist() == [2, 0]


def test_sum_and_multiply_differ():
    """Token 2 is far but worthless: the sum takes it, the product does not."""
    embeddings = torch.tensor([[1.0, 0], [0.9, 0.5], [-1, 0.1]])
    weights = torch.tensor([1.0, 0.5, 0.0])
    assert greedy(embeddings, 2, weights, combine="multiply").tolist() == [0, 1]
    assert greedy(embeddings, 2, weights, combine="sum").tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types_are_compared_in_full_precision(dtype):
    embeddings = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert greedy(embeddings, 30).tolist() == greedy(embeddings.float(), 30).tolist()
    assert sorted(greedy(embeddings, 30).tolist()) == list(range(30))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_picks_the_same_tokens_also_in_ties():
    g = torch.Generator().manual_seed(0)
    embeddings = torch.randint(-2, 3, (300, 6), generator=g).float()
    weights = torch.randint(0, 4, (300,), generator=g).float()
    for w in (None, weights):
        on_gpu = greedy(embeddings.cuda(), 300, None if w is None else w.cuda())
        assert on_gpu.tolist() == greedy(embeddings, 300, w).tolist()


@pytest.mark.parametrize(
    ("embeddings", "k", "weights", "message"),
    [
        (torch.zeros(4), 1, None, r"embeddings must be \[N, width\], got shape \(4,\)"),
        (torch.zeros(4, 2), 5, None, "k 5: allowed are 0 to 4"),
        (torch.zeros(4, 2), -1, None, "k -1: allowed are 0 to 4"),
        (torch.full((4, 2), torch.nan), 1, None, "embeddings contain NaN or infinity in 4 of 4 rows"),
        (torch.zeros(4, 2), 1, torch.zeros(3), r"weights must be \[4\], got shape \(3,\)"),
        (torch.zeros(4, 2), 1, torch.full((4,), torch.inf), "weights contain NaN or infinity"),
    ],
)
def test_bad_input_is_named(embeddings, k, weights, message):
    with pytest.raises(InvalidValueError, match=message):
        greedy(embeddings, k, weights)


def test_an_unknown_combination_is_named():
    with pytest.raises(InvalidValueError, match="combine 'product': allowed are multiply, sum"):
        greedy(torch.zeros(4, 2), 1, torch.zeros(4), combine="product")

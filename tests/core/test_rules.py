"""Merging, coverage and the determinantal point process, each against a slow reference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core.coverage import greedy_coverage
from zoo_exp.core.dpp import conditional_dpp
from zoo_exp.core.merging import dominant_and_contextual
from zoo_exp.errors import InvalidValueError

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"
MERGES = [
    (name, image, dominant, contextual)
    for name, images, splits in (
        ("visionzip_small", 1, [(6, 3), (9, 4)]),
        ("visionzip_n576", 1, [(54, 10), (108, 20), (162, 30)]),
        ("visionzip_next_tiles", 3, [(27, 5), (54, 10), (108, 20)]),
        ("visionzip_dup", 1, [(12, 4)]),
    )
    for image in range(images)
    for dominant, contextual in splits
]


@pytest.mark.parametrize(("name", "image", "dominant", "contextual"), MERGES)
def test_visionzip_splits_and_merges_as_released(name, image, dominant, contextual):
    """The release counts the CLS token as dominant and as place 0; here all are patches."""
    case = {key: torch.from_numpy(value[image]) for key, value in np.load(GOLDEN / f"{name}.npz").items()}
    split = dominant_and_contextual(
        case["attn_cls_to_patch"].sum(dim=0), case["metric"][1:], case["hidden"][1:], dominant - 1, contextual
    )
    prefix = f"d{dominant}_c{contextual}"
    assert [0, *(split.dominant + 1).tolist()] == case[f"{prefix}_kept_incl_cls_sorted"].tolist()
    assert (split.targets + 1).tolist() == case[f"{prefix}_context_target_pos"].tolist()
    assert split.assigned.tolist() == case[f"{prefix}_assign"].tolist()
    torch.testing.assert_close(split.contextual, case[f"{prefix}_contextual"], rtol=1e-5, atol=1e-5)
    rows = torch.cat([case["hidden"][:1], case["hidden"][1:][split.dominant], split.contextual])
    torch.testing.assert_close(rows, case[f"{prefix}_output"], rtol=1e-5, atol=1e-5)


def slow_merge(attention, keys, features, dominant, contextual):
    """Spec: algorithms 3, one token at a time."""
    order = sorted(range(len(attention)), key=lambda i: (-float(attention[i]), i))
    kept = sorted(order[:dominant])
    rest = [i for i in range(len(attention)) if i not in kept]
    step = max(1, len(rest) // max(1, contextual))
    targets = rest[::step][:contextual]
    members = {t: [] for t in targets}
    for i in rest:
        if i not in targets and targets:
            likeness = [float(torch.cosine_similarity(keys[i], keys[t], dim=0)) for t in targets]
            members[targets[likeness.index(max(likeness))]].append(i)
    merged = [features[t] + (features[m].mean(dim=0) if m else 0) for t, m in members.items()]
    return kept, targets, merged


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.integers(0, 999), st.data())
def test_merging_equals_its_definition(n, seed, data):
    dominant = data.draw(st.integers(0, n))
    contextual = data.draw(st.integers(0, n - dominant))
    g = torch.Generator().manual_seed(seed)
    attention, keys, features = (
        torch.rand(n, generator=g),
        torch.randn(n, 4, generator=g),
        torch.randn(n, 3, generator=g),
    )
    kept, targets, merged = slow_merge(attention, keys.double(), features, dominant, contextual)
    split = dominant_and_contextual(attention, keys, features, dominant, contextual)
    assert (split.dominant.tolist(), split.targets.tolist()) == (kept, targets)
    assert len(split.contextual) == contextual
    for row, expected in zip(split.contextual, merged, strict=True):
        torch.testing.assert_close(row, expected)


def test_more_tokens_than_there_are_is_named():
    with pytest.raises(
        InvalidValueError, match="3 dominant and 2 contextual tokens do not fit 4 visual tokens"
    ):
        dominant_and_contextual(torch.zeros(4), torch.zeros(4, 2), torch.zeros(4, 2), 3, 2)


def eager_coverage(cover, k):
    """Spec: algorithms_beyond, MMTok 3: every gain at every step."""
    best, picks = torch.zeros(len(cover), dtype=torch.float64), []
    for _ in range(k):
        gain = (cover.double() - best[:, None]).clamp_min(0).sum(dim=0).mul(2**40).round()
        gain[picks] = -torch.inf
        picks.append(int(gain.argmax()))
        best = torch.maximum(best, cover[:, picks[-1]].double())
    return picks


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 999), st.booleans(), st.data())
def test_lazy_coverage_picks_as_eager(rows, columns, seed, coarse, data):
    """Coarse values tie all the time."""
    g = torch.Generator().manual_seed(seed)
    cover = (
        torch.randint(0, 3, (rows, columns), generator=g).float()
        if coarse
        else torch.rand(rows, columns, generator=g)
    )
    k = data.draw(st.integers(0, columns))
    assert greedy_coverage(cover, k).tolist() == eager_coverage(cover, k)


def test_coverage_of_an_image_on_itself():
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(300, 16, generator=g), dim=-1)
    cover = (rows @ rows.T / 0.2).softmax(dim=1) / 300
    assert greedy_coverage(cover, 60).tolist() == eager_coverage(cover, 60)


def test_coverage_k_out_of_range_is_named():
    with pytest.raises(InvalidValueError, match="k 5: allowed are 0 to 4"):
        greedy_coverage(torch.zeros(2, 4), 5)


def slow_dpp(embeddings, q, k):
    """The token that makes the determinant of the kernel of all picked tokens the largest, each time anew."""
    rows = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    kernel = q.double()[:, None] * (rows @ rows.T) * q.double()
    picks = []
    while len(picks) < k:
        volumes = [
            -torch.inf if i in picks else torch.linalg.det(kernel[[*picks, i]][:, [*picks, i]]).item()
            for i in range(len(q))
        ]
        picks.append(volumes.index(max(volumes)))
    return picks


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10), st.integers(0, 999))
def test_dpp_is_the_greedy_determinant(n, seed):
    g = torch.Generator().manual_seed(seed)
    embeddings, q = torch.randn(n, 12, generator=g), torch.rand(n, generator=g) + 0.1
    assert conditional_dpp(embeddings, q, n).tolist() == slow_dpp(embeddings, q, n)


def test_dpp_fills_up_by_relevance_when_the_rank_is_exhausted():
    embeddings = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 1]])
    assert conditional_dpp(embeddings, torch.tensor([1.0, 0.9, 0.2, 0.3]), 4).tolist() == [0, 1, 3, 2]
    assert conditional_dpp(embeddings, torch.zeros(4), 3).tolist() == [0, 1, 2]


def test_dpp_bad_input_is_named():
    with pytest.raises(InvalidValueError, match="k 3: allowed are 0 to 2"):
        conditional_dpp(torch.eye(2), torch.ones(2), 3)
    for relevance in (torch.tensor([1.0, -1.0]), torch.ones(3)):
        with pytest.raises(InvalidValueError, match=r"relevance must be \[2\] and not negative"):
            conditional_dpp(torch.eye(2), relevance, 1)

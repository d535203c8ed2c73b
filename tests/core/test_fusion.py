"""Scaling and fusion: what each does to the first pick and to a constant S."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core.diversity import greedy
from zoo_exp.core.fusion import min_max, top_k

EMBEDDINGS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
SCORES = torch.rand(12, generator=torch.Generator().manual_seed(1)) * 3 + 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9), st.floats(0.5, 4), st.floats(-9, 9))
def test_min_max_keeps_the_order_and_ignores_units(values, scale, shift):
    scores = torch.tensor(values)
    scaled = min_max(scores)
    if scores.min() == scores.max():
        assert (scaled == 1).all()
        return
    assert scaled.min() == 0
    assert scaled.max() <= 1
    assert ((scores[:, None] >= scores) <= (scaled[:, None] >= scaled)).all()
    if scores.max() - scores.min() > 1:
        torch.testing.assert_close(min_max(scores * scale + shift), scaled, rtol=0, atol=2e-2)


def test_min_max_equals_its_formula():
    torch.testing.assert_close(min_max(torch.tensor([1.0, 2.0, 5.0])), torch.tensor([0, 0.25, 1]))
    low, high = SCORES.min(), SCORES.max()
    assert torch.equal(min_max(SCORES), (SCORES - low) / (high - low + 1e-8))


def test_constant_scores_are_all_ones_or_what_is_asked_for():
    constant = torch.full((4,), 7.0, dtype=torch.float16)
    assert min_max(constant).tolist() == [1.0] * 4
    assert min_max(constant).dtype == torch.float32
    assert min_max(constant, constant=0.0).tolist() == [0.0] * 4
    assert min_max(torch.zeros(0)).tolist() == []


def test_top_k_prefers_the_lowest_index():
    assert top_k(torch.tensor([1.0, 3, 2, 3, 3, 2]), 5).tolist() == [1, 3, 4, 2, 5]


def slow_order(scores, combine):
    """Each fusion as its own sentence."""
    scaled = (scores - scores.min()) / (scores.max() - scores.min() + 1e-8)
    rows = EMBEDDINGS / EMBEDDINGS.norm(dim=-1, keepdim=True)
    picked = []
    while len(picked) < 12:
        distance = (1 - rows @ rows[picked].T).amin(dim=1) if picked else torch.ones(12)
        score = combine(scaled, distance)
        score[picked] = -torch.inf
        picked.append(int(score.argmax()))
    return picked


def test_greedy_picks_with_weights_follow_the_fusions():
    weights = min_max(SCORES)
    for combine, formula in (("sum", lambda s, d: s + d), ("multiply", lambda s, d: s * d)):
        picks = greedy(EMBEDDINGS, 12, weights, combine=combine).tolist()
        assert picks == slow_order(SCORES, formula)
        assert picks[0] == int(SCORES.argmax()) == int(top_k(SCORES, 1))


def test_constant_scores_leave_diversity_from_the_first_token():
    constant = min_max(torch.ones(12))
    assert top_k(torch.ones(12), 5).tolist() == [0, 1, 2, 3, 4]
    sum_, product = (greedy(EMBEDDINGS, 12, constant, combine=c).tolist() for c in ("sum", "multiply"))
    assert sum_[0] == product[0] == 0
    assert sum_ == product

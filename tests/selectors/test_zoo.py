# ruff: noqa: D102 - the names say what the methods do
"""ZOO-Prune end to end: the released LLaVA-1.5 and LLaVA-NeXT runs, and what each option does."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.closed_form import closed_form
from zoo_exp.core.diversity import cosine_distances, greedy, nearest_distances
from zoo_exp.core.fusion import min_max, top_k
from zoo_exp.core.low_rank import as_released, low_rank
from zoo_exp.core.sensitivity import MLP, draw_directions, zeroth_order, zeroth_order_reference
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.selectors.divprune import DivPrune
from zoo_exp.selectors.zoo import Zoo
from zoo_exp.testing import sample_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"
NEXT = [
    "zoonext_e2e_2x2_square",
    "zoonext_e2e_2x2_landscape",
    "zoonext_e2e_small_side6",
    "zoonext_e2e_small_overbudget",
]
PREFIX = 35


def fused_order(embeddings, scores, k, fusion):
    """Picks of a fusion from its parts, in order."""
    if fusion == "none":
        return top_k(scores, k)
    if fusion == "diversity":
        return greedy(embeddings, k)
    return greedy(embeddings, k, min_max(scores), combine=fusion)


def load(name):
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def given_directions(monkeypatch):
    """Let a selector draw the directions of a golden case."""

    def give(raw):
        unit = raw / (raw.norm(dim=-1, keepdim=True) + 1e-12)
        monkeypatch.setattr("zoo_exp.selectors.zoo.draw_directions", lambda *args: unit)

    return give


@pytest.mark.parametrize("name", ["zoo15_e2e_small", "zoo15_e2e_n576"])
def test_llava_15_keeps_what_the_release_keeps(name, given_directions):
    case = load(name)
    mlp = MLP(case["W1"], case["b1"], case["W2"], case["b2"])
    x = case["X"][0]
    given_directions(case["Uraw"])
    zoo = Zoo(variant="official_code", dtype="float32")
    answer = zoo.select(VisualTokens(projected=mlp(x), features=x, mlp=mlp), 0.1112, generator())
    torch.testing.assert_close(answer.scores, case["S_f32"], rtol=2e-4, atol=0)
    assert answer.indices.tolist() == case["ordered"].sort().values.tolist()
    kept = case["keep_positions"]
    in_image = kept[(kept >= PREFIX) & (kept < PREFIX + len(x))] - PREFIX
    assert answer.indices.tolist() == in_image.tolist()


class Rated(Zoo):
    """ZOO-Prune with sensitivities that are given: a golden case has them for the assembled sequence only."""

    given: torch.Tensor

    def score(self, tokens, generator):
        return self.given


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize(
    ("newline", "key"),
    [("drop", "ordered"), ("as_released", "final_image_idx"), ("keep", "final_fixed_newline_idx")],
)
def test_llava_next_keeps_what_the_release_keeps(name, newline, key):
    """Released newline rows are off by the base tile: none of the true ones is kept."""
    case, ratio = load(name), {NEXT[0]: 0.0556, NEXT[1]: 0.1112, NEXT[2]: 0.0209, NEXT[3]: 0.06}[name]
    label = case["frame_label"].long()
    tile = torch.where(label < 0, -1, label)
    tokens = VisualTokens(
        projected=case["image_features"], features=case["image_features"], mlp=object(), tile=tile
    )
    zoo = Rated(variant="official_code", newline=newline)
    scores = case["S_f32"].clone()
    scores[tile < 0] = 0  # minus infinity in the release; newlines are never candidates here
    object.__setattr__(zoo, "given", scores)
    indices = zoo.select(tokens, ratio, generator()).indices
    assert indices.tolist() == case[key].unique().tolist()
    if newline == "as_released":
        assert not (tile[indices] < 0).any()


@pytest.mark.parametrize("name", NEXT)
def test_next_sensitivity_shares_directions_between_tiles(name):
    case = load(name)
    mlp = MLP(case["W1"], case["b1"], case["W2"], case["b2"])
    raw = case["Uraw"]
    s = zeroth_order(case["X"][0], mlp, raw / (raw.norm(dim=-1, keepdim=True) + 1e-12), 0.01)
    torch.testing.assert_close(s, case["S_f32"][: len(s)], rtol=2e-4, atol=0)


@pytest.mark.parametrize("fusion", ["none", "diversity", "sum", "multiply"])
def test_fusion_decides_the_order(fusion):
    tokens = sample_tokens()
    zoo = Zoo(fusion=fusion)
    s = zeroth_order(tokens.features, tokens.mlp, draw_directions(64, 16, generator(3)), 0.01)
    expected = fused_order(tokens.projected, s, 9, fusion).sort().values
    answer = zoo.select(tokens, 9, generator(3))
    assert answer.indices.tolist() == expected.tolist()
    assert (answer.scores is None) == (fusion == "diversity")


def test_diversity_alone_is_divprune():
    tokens = sample_tokens()
    expected = selectors.get("divprune").select(tokens, 9, generator()).indices
    assert Zoo(fusion="diversity").select(tokens, 9, generator()).indices.tolist() == expected.tolist()


def test_estimators_score_as_their_functions():
    tokens = sample_tokens()
    u = draw_directions(64, 16, generator())
    mlp = tokens.mlp
    expected = {
        "zeroth_order": zeroth_order_reference(tokens.features, mlp, u, 0.01),
        "closed_form": closed_form(tokens.features, mlp),
        "first_order": zeroth_order_reference(tokens.features, mlp, u, 0.01),
        "feature_norm": tokens.projected.norm(dim=-1),
    }
    for estimator, scores in expected.items():
        got = Zoo(estimator=estimator).score(tokens, generator())
        torch.testing.assert_close(got, scores, rtol=1e-3, atol=0)


def test_low_rank_is_for_sensitivity_only():
    """Diversity still sees the full projector's output (supplement C.2)."""
    tokens = sample_tokens()
    s = zeroth_order(tokens.features, low_rank(tokens.mlp, 2), draw_directions(64, 16, generator()), 0.01)
    answer = Zoo(projector="low_rank", rank=2).select(tokens, 9, generator())
    assert torch.equal(answer.scores, s)
    expected = fused_order(tokens.projected, s, 9, "multiply").sort().values
    assert answer.indices.tolist() == expected.tolist()
    assert not torch.equal(s, Zoo().score(tokens, generator()))


def test_the_released_low_rank_is_random_and_the_same_for_every_image():
    tokens, u = sample_tokens(), draw_directions(64, 16, generator())
    selector = Zoo(projector="low_rank_as_released", rank=2)
    scores = selector.score(tokens, generator())
    assert torch.equal(scores, zeroth_order(tokens.features, as_released(tokens.mlp, 2), u, 0.01))
    assert torch.equal(scores, selector.score(tokens, generator()))
    intended = Zoo(projector="low_rank", rank=2).score(tokens, generator())
    assert not torch.allclose(scores, intended, rtol=0.1)


@pytest.mark.parametrize("fusion", ["none", "sum", "multiply"])
def test_inverted_is_one_minus_the_sensitivity(fusion):
    tokens = sample_tokens()
    s = Zoo(fusion=fusion).score(tokens, generator())
    one_minus = 1 - (s - s.min()) / (s.max() - s.min())
    selector = Zoo(fusion=fusion, control="inverted")
    torch.testing.assert_close(selector.weights(selector.score(tokens, generator())), one_minus)
    expected = fused_order(tokens.projected, one_minus, 9, fusion).sort().values
    assert selector.select(tokens, 9, generator()).indices.tolist() == expected.tolist()


def test_shuffled_hands_the_same_sensitivities_to_other_tokens():
    tokens = sample_tokens()
    s = Zoo().score(tokens, generator())
    shuffled = Zoo(control="shuffled").score(tokens, generator())
    assert torch.equal(shuffled.sort().values, s.sort().values)
    assert (shuffled != s).sum() > 40
    assert torch.equal(shuffled, Zoo(control="shuffled").score(tokens, generator()))
    assert not torch.equal(shuffled, Zoo(control="shuffled").score(tokens, generator(1)))
    exact = Zoo(control="shuffled", estimator="closed_form")
    assert exact.stochastic
    assert exact.score_key != Zoo(estimator="closed_form").score_key
    expected = fused_order(tokens.projected, shuffled, 9, "multiply").sort().values
    assert Zoo(control="shuffled").select(tokens, 9, generator()).indices.tolist() == expected.tolist()


def test_shuffling_spreads_over_all_places():
    """48 tokens, 2000 draws: every token gets the largest sensitivity about as often as any other."""
    selector, tokens = Zoo(control="shuffled", estimator="closed_form"), sample_tokens()
    got = torch.stack([selector.score(tokens, generator(i)).argmax() for i in range(2000)]).bincount()
    assert len(got) == 48
    assert (got - 2000 / 48).abs().max() < 30


def test_random_factors_of_another_seed_are_another_network():
    tokens, u = sample_tokens(), draw_directions(64, 16, generator())
    scores = []
    for seed in range(5):
        selector = Zoo(projector="low_rank_as_released", rank=2, factor_seed=seed)
        scores.append(selector.score(tokens, generator()))
        factors = as_released(tokens.mlp, 2, seed)
        assert torch.equal(scores[-1], zeroth_order(tokens.features, factors, u, 0.01))
        assert factors.down1.std().item() == pytest.approx(0.02, rel=0.4)
    assert not any(torch.equal(a, b) for i, a in enumerate(scores) for b in scores[:i])


def test_layer_takes_the_path_to_the_language_model():
    """The response is measured behind the projector, or before it; two layers, of which the second is read."""
    tokens = dataclasses.replace(sample_tokens(), hidden=dict.fromkeys((1, 2), sample_tokens().hidden[1]))
    u = draw_directions(64, 16, generator())
    output = zeroth_order_reference(tokens.hidden[1], lambda h: tokens.mlp(tokens.replay(1, h)), u, 0.01)
    assert torch.equal(Zoo(layer=1).score(tokens, generator()), output)
    assert Zoo(layer=1).needs == {"hidden", "replay", "projector"}
    before = Zoo(layer=1, response="features")
    expected = zeroth_order_reference(tokens.hidden[1], lambda h: tokens.replay(1, h), u, 0.01)
    assert torch.equal(before.score(tokens, generator()), expected)
    assert before.needs == {"hidden", "replay"}


def test_a_budget_per_tile_is_proportional_and_the_released_one_is_not():
    """A 3-tile image at 10 %: 5 tokens per tile as the supplement says; 288 / 3 in the released file."""
    tile = torch.arange(3).repeat_interleave(48)
    part = sample_tokens(n_visual=144)
    tokens = dataclasses.replace(part, tile=tile)
    paper = Zoo().select(tokens, Budget(keep_ratio=0.1, per="tile"), generator())
    released = Zoo(variant="official_code", dtype="float32").select(tokens, 0.1, generator())
    assert [(tile[paper.indices] == t).sum().item() for t in range(3)] == [5, 5, 5]
    assert released.kept_tokens == 3 * 48  # int(288 / 3) = 96 is above a tile of this size
    count = Zoo(variant="official_code", dtype="float32").select(tokens, 16, generator())
    assert count.kept_tokens == 15  # int(16 / 3) of each


@pytest.mark.parametrize("budget", ["9/tile", "0.2/tile", 30])
@pytest.mark.parametrize("rows_ahead", [False, True])
def test_tiles_in_one_loop_keep_what_each_tile_alone_keeps(budget, rows_ahead, monkeypatch):
    """The slow reference: tile after tile, token after token, from all pairs."""
    if rows_ahead:
        monkeypatch.setattr("zoo_exp.core.diversity.AHEAD_FROM", 1)
        monkeypatch.setattr("zoo_exp.core.diversity.AHEAD", 3)
    tile = torch.arange(260) % 5 - 1  # 52 newlines and four tiles of 52 tokens, interleaved
    tokens = dataclasses.replace(sample_tokens(1, 260), grid=None, tile=tile)
    for selector in (Zoo(estimator="closed_form"), Zoo(estimator="diagonal", fusion="sum"), DivPrune()):
        layout = selector.plan(tokens, budget)
        scores = selector.score(tokens, generator())
        expected = []
        for group in layout.groups:
            index = group.index
            weights = None if scores is None else min_max(scores[index])
            expected += index[
                one_by_one(tokens.projected[index], group.k, weights, selector.combine)
            ].tolist()
        kept = selector.select(tokens, budget, generator()).indices.tolist()
        assert kept == sorted(expected)
        assert selector.select_many([tokens], budget, [generator()])[0].indices.tolist() == kept


def one_by_one(rows, k, weights, combine):
    """Picks in order: every step compares every token with every picked one again."""
    distance = cosine_distances(rows)
    score = nearest_distances(distance) if weights is None else weights
    picked = []
    for _ in range(k):
        free = [i for i in range(len(rows)) if i not in picked]
        picked.append(max(free, key=lambda i: (score[i].item(), -i)))
        nearest = distance[picked].amin(dim=0)
        score = nearest
        if weights is not None:
            score = nearest * weights if combine == "multiply" else nearest + weights
    return picked


def test_needs_depend_on_the_options():
    assert Zoo().needs == {"features", "projector"}
    assert Zoo(fusion="diversity").needs == Zoo(estimator="feature_norm").needs == frozenset()
    assert [
        Zoo().stochastic,
        Zoo(estimator="closed_form").stochastic,
        Zoo(fusion="diversity").stochastic,
    ] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fusion": "product"},
            "fusion 'product' of selector zoo: allowed are none, diversity, sum, multiply",
        ),
        ({"estimator": "zo"}, "estimator 'zo' of selector zoo: allowed are zeroth_order"),
        ({"n_directions": 0}, "n_directions 0 of selector zoo: must be a whole number above 0"),
        ({"n_directions": 1.5}, r"n_directions 1.5 of selector zoo"),
        ({"n_directions": "many"}, "n_directions 'many' of selector zoo"),
        ({"step_size": 0}, "step_size 0 of selector zoo: must be a number above 0"),
        ({"step_size": float("nan")}, "step_size nan of selector zoo"),
        ({"rank": -1}, "rank -1 of selector zoo"),
        (
            {"projector": "thin"},
            "projector 'thin' of selector zoo: allowed are full, low_rank, low_rank_as_released",
        ),
        ({"dtype": "int8"}, "dtype 'int8' of selector zoo: allowed are None, float32, float16"),
        ({"variant": "mine"}, "variant 'mine' of selector zoo: allowed are paper, official_code"),
        ({"control": "random"}, "control 'random' of selector zoo: allowed are none, shuffled, inverted"),
        (
            {"control": "shuffled", "fusion": "diversity"},
            "control shuffled of selector zoo requires a fusion that uses the sensitivity",
        ),
        ({"factor_seed": -1}, "factor_seed -1 of selector zoo: must be a whole number of at least 0"),
        (
            {"factor_seed": 2, "projector": "low_rank"},
            "factor_seed 2 of selector zoo requires projector=low_rank_as_released, not low_rank",
        ),
        ({"response": "features"}, "response features of selector zoo requires an encoder layer"),
        ({"response": "encoder", "layer": 1}, "response 'encoder' of selector zoo: allowed are projector"),
        ({"layer": "last"}, "layer 'last' of selector zoo"),
        (
            {"layer": 3, "estimator": "closed_form"},
            "layer 3 of selector zoo requires estimator=zeroth_order",
        ),
        ({"dtype": "float16", "estimator": "closed_form"}, "dtype float16 of selector zoo"),
        ({"newline": "all"}, "newline 'all' of selector zoo: allowed are drop, keep, as_released"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InvalidValueError, match=message):
        selectors.get("zoo", **options)


def test_what_depends_on_the_model_is_named_when_it_is_known():
    tokens = sample_tokens()
    with pytest.raises(InvalidValueError, match="rank 100: allowed are 1 to 16"):
        Zoo(projector="low_rank", rank=100).select(tokens, 4, generator())
    with pytest.raises(InvalidValueError, match="not a two-layer MLP"):
        Zoo(projector="low_rank").select(
            dataclasses.replace(tokens, mlp=None, project=torch.tanh), 4, generator()
        )
    with pytest.raises(
        InvalidValueError, match=r"layer 9 .* the projector reads encoder layer 1, give 1 to 1"
    ):
        Zoo(layer=9).select(tokens, 4, generator())
    with pytest.raises(
        UnknownNameError, match=r"unknown option of selector zoo 'fuson'. Did you mean 'fusion'"
    ):
        selectors.get("zoo", fuson="sum")

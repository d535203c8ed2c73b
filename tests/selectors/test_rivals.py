"""Other input selectors against their definitions, on small images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.diversity import greedy
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.resize import smaller_grid
from zoo_exp.selectors.vispruner import thin_out
from zoo_exp.testing import sample_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"
TOKENS = sample_tokens()


def select(name, budget, tokens=TOKENS, seed=0, **options):
    return selectors.get(name, **options).select(tokens, budget, torch.Generator().manual_seed(seed))


# LLaVA-NeXT, newlines among the candidates


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("zoonext_e2e_2x2_square", 0.0556),
        ("zoonext_e2e_2x2_landscape", 0.1112),
        ("zoonext_e2e_small_side6", 0.0209),
    ],
)
def test_divprune_on_next_is_the_released_one(name, ratio):
    case = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}
    label = case["frame_label"].long()
    tokens = VisualTokens(projected=case["image_features"], tile=torch.where(label < 0, -1, label))
    answer = select("divprune", Budget(keep_ratio=ratio, rounding="bankers"), tokens, newline="as_released")
    released = set(case["divprune_ordered"].tolist())
    # The manifest flags the square case: one pick of 163 is decided by rounding.
    assert len(released ^ set(answer.indices.tolist())) <= (2 if "square" in name else 0)
    assert answer.kept_tokens == len(case["divprune_ordered"])


def test_newlines_are_dropped_kept_or_candidates():
    tile = torch.tensor(([0] * 7 + [-1]) * 6)
    tokens = dataclasses.replace(TOKENS, tile=tile)
    counts = {}
    for newline in ("drop", "keep", "as_released"):
        answer = select("divprune", 20, tokens, newline=newline)
        counts[newline] = (answer.kept_tokens, int((tile[answer.indices] < 0).sum()))
    assert counts["drop"] == (20, 0)
    assert counts["keep"] == (26, 6)
    assert counts["as_released"][0] == 20
    assert counts["as_released"][1] > 0
    assert select("divprune", 48, tokens).kept_tokens == 48  # the whole image, newlines included
    with pytest.raises(
        InvalidValueError, match="budget 45 is above the 42 visual tokens that are not newlines"
    ):
        select("divprune", 45, tokens)
    # 48 tokens, 6 of them newlines: at most so many never stops at a small image.
    assert [select("divprune", f"<={k}", tokens).kept_tokens for k in (20, 45, 48, 60)] == [20, 42, 48, 48]


def test_divprune_never_repeats_a_duplicate():
    tokens = VisualTokens(projected=torch.ones(6, 3))
    assert select("divprune", 4, tokens).indices.tolist() == [0, 1, 2, 3]


# attention


def test_attention_selectors_take_the_highest():
    assert select("cls_attention", 5).indices.tolist() == sorted(
        TOKENS.cls_attention.topk(5).indices.tolist()
    )
    received = select("cls_attention", 5, attention="received").indices.tolist()
    assert received == sorted(TOKENS.received_attention.topk(5).indices.tolist())


def test_text_attention_is_a_softmax_over_the_image():
    rows = [torch.softmax(TOKENS.projected @ word / 24**0.5, dim=0) for word in TOKENS.text]
    scores = torch.stack(rows).mean(dim=0)
    answer = select("text_attention", 5)
    torch.testing.assert_close(answer.scores, scores)
    assert answer.indices.tolist() == sorted(scores.topk(5).indices.tolist())


@pytest.mark.parametrize("name", ["text_attention", "cdpruner"])
def test_a_question_without_tokens_is_named(name):
    with pytest.raises(InvalidValueError, match="text has no tokens"):
        select(name, 5, dataclasses.replace(TOKENS, text=torch.zeros(0, 24), text_words=None))


# VisionZip


@pytest.mark.parametrize(
    ("budget", "dominant", "contextual"), [(192, 162, 30), (128, 108, 20), (64, 54, 10), (32, 27, 5)]
)
def test_visionzip_splits_published_budgets_as_published(budget, dominant, contextual):
    answer = select("visionzip", budget, sample_tokens(n_visual=576))
    plain = (answer.merged == sample_tokens(n_visual=576).projected[answer.indices]).all(dim=1)
    assert (int(plain.sum()), int((~plain).sum())) == (dominant, contextual)


def test_visionzip_official_order_is_cls_then_dominant_then_contextual():
    case = {key: torch.from_numpy(value[0]) for key, value in np.load(GOLDEN / "visionzip_n576.npz").items()}
    hidden = case["hidden"]
    tokens = VisualTokens(
        projected=hidden[1:] * 2,
        project=lambda h: h * 2,
        features=hidden[1:],
        cls=hidden[0],
        keys=case["metric"][1:],
        cls_attention=case["attn_cls_to_patch"].sum(dim=0),
    )
    answer = select("visionzip", 64, tokens, variant="official_code")
    torch.testing.assert_close(answer.merged, case["d54_c10_output"] * 2, rtol=1e-5, atol=1e-5)
    places = {
        *(case["d54_c10_kept_incl_cls_sorted"] - 1).tolist(),
        *(case["d54_c10_context_target_pos"] - 1).tolist(),
    }
    free = min(set(range(576)) - places)
    assert set(answer.indices.tolist()) == (places - {-1}) | {free}


def test_visionzip_per_tile_gives_every_tile_its_own_split():
    tile = torch.arange(4).repeat_interleave(12)
    answer = select("visionzip", Budget(count=6, per="tile"), dataclasses.replace(TOKENS, tile=tile))
    for t in range(4):
        part = TOKENS.subset((tile == t).nonzero().flatten())
        alone = select("visionzip", 6, part)
        mine = tile[answer.indices] == t
        assert (answer.indices[mine] - 12 * t).tolist() == alone.indices.tolist()
        torch.testing.assert_close(answer.merged[mine], alone.merged)


# MMTok, CDPruner, VisPruner


def test_mmtok_equals_its_definition():
    """Every number written out: a row per sub-token, softmax over visual tokens, greedy sum of row maxima."""
    words = TOKENS.question_words["keywords"]

    def cos(a, b):
        return torch.nn.functional.cosine_similarity(a[:, None].double(), b[None].double(), dim=-1)

    p = torch.softmax(cos(words, TOKENS.projected) / 0.02, dim=1) / 5
    q = torch.softmax(cos(TOKENS.features, TOKENS.features) / 0.2, dim=1) / 48
    c, picked = torch.cat([p, 0.5 * q]), []
    for _ in range(9):
        value = [0 if j in picked else c[:, [*picked, j]].amax(dim=1).sum().item() for j in range(48)]
        picked.append(value.index(max(value)))
    assert select("mmtok", 9).indices.tolist() == sorted(picked)


def test_mmtok_weight_and_temperature_are_checked():
    with pytest.raises(
        InvalidValueError, match="text_temperature 0 of selector mmtok: must be a number above 0"
    ):
        selectors.get("mmtok", text_temperature=0)


@pytest.mark.parametrize("relevance", ["llm_embeddings", "clip"])
def test_cdpruner_equals_its_definition(relevance):
    def cos(a, b):
        return torch.nn.functional.cosine_similarity(a[:, None].double(), b[None].double(), dim=-1)

    if relevance == "clip":
        q = -cos(TOKENS.clip_text, TOKENS.clip_image).mean(dim=0)
    else:
        q = cos(TOKENS.text, TOKENS.projected).mean(dim=0)
    q = (q - q.min() + 1e-6) / (q.max() - q.min())
    kernel = q[:, None] * cos(TOKENS.projected, TOKENS.projected) * q
    picked = []
    for _ in range(7):
        volume = [
            -1 if j in picked else torch.linalg.det(kernel[[*picked, j]][:, [*picked, j]]).item()
            for j in range(48)
        ]
        picked.append(volume.index(max(volume)))
    assert select("cdpruner", 7, relevance=relevance).indices.tolist() == sorted(picked)


def slow_vispruner(attention, features, k, share):
    """The release's rounds, with Python lists."""
    order = sorted(range(len(attention)), key=lambda i: (-float(attention[i]), i))
    important = int(k * share)
    residual, wanted = order[important:], k - important
    while len(residual) > wanted and wanted:
        s = min(8, len(residual) - wanted, len(residual[::2]))
        a, b = residual[::2], residual[1::2]
        score = {
            i: max(
                float(torch.cosine_similarity(features[i].double(), features[j].double(), dim=0)) for j in b
            )
            for i in a
        }
        survivors = sorted(a, key=score.get, reverse=True)[s:]
        residual = survivors + b
    return sorted(order[:important] + (residual if wanted else []))


@pytest.mark.parametrize("k", [1, 2, 7, 20, 45])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_vispruner_equals_its_definition(k, share):
    expected = slow_vispruner(TOKENS.cls_attention, TOKENS.features, k, share)
    assert select("vispruner", k, important_share=share).indices.tolist() == expected


def test_vispruner_thins_out_to_any_length():
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    for k in range(49):
        assert len(thin_out(TOKENS.features, order, k).unique()) == k


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vispruner",
            {"important_share": 1.5},
            "important_share 1.5 of selector vispruner: must lie between 0 and 1",
        ),
        (
            "vispruner",
            {"attention": "text"},
            "attention 'text' of selector vispruner: allowed are cls, received",
        ),
        ("visionzip", {"contextual_share": 1}, "contextual_share 1 of selector visionzip"),
        ("visionzip", {"variant": "fast"}, "variant 'fast' of selector visionzip"),
        (
            "cdpruner",
            {"relevance": "bert"},
            "relevance 'bert' of selector cdpruner: allowed are llm_embeddings, clip",
        ),
        (
            "feature_norm",
            {"of": "keys"},
            "of 'keys' of selector feature_norm: allowed are projected, features",
        ),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(InvalidValueError, match=message):
        selectors.get(name, **options)


# baselines


def test_random_keeps_each_token_equally_often():
    counts = torch.zeros(48)
    for seed in range(2000):
        counts[select("random", 12, seed=seed).indices] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05


def test_random_grows_with_the_budget():
    kept = [set(select("random", k, seed=1).indices.tolist()) for k in (4, 9, 30)]
    assert kept[0] < kept[1] < kept[2]


def test_uniform_grid_is_even():
    square = dataclasses.replace(sample_tokens(n_visual=144), grid=(12, 12))
    rows, columns = (
        x.unique().tolist() for x in (lambda i: (i // 12, i % 12))(select("uniform_grid", 16, square).indices)
    )
    assert rows == columns == [1, 4, 7, 10]
    for k in range(1, 145):
        place = select("uniform_grid", k, square).indices
        everywhere = torch.arange(144)
        down = (everywhere[:, None] // 12 - place // 12).abs()
        across = (everywhere[:, None] % 12 - place % 12).abs()
        assert torch.maximum(down, across).amin(dim=1).max() <= (144 / k) ** 0.5, (
            k
        )  # no hole wider than a cell
    tall = dataclasses.replace(sample_tokens(n_visual=144), grid=(36, 4))
    assert [len(select("uniform_grid", k, tall).indices) for k in (1, 36, 37, 143)] == [1, 36, 37, 143]


def test_uniform_grid_without_a_raster_strides():
    line = dataclasses.replace(TOKENS, grid=None)
    assert select("uniform_grid", 4, line).indices.tolist() == [6, 18, 30, 42]


def test_feature_norm_takes_the_longest():
    expected = sorted(TOKENS.projected.norm(dim=-1).topk(6).indices.tolist())
    assert select("feature_norm", 6).indices.tolist() == expected
    assert select("feature_norm", 6, of="features").indices.tolist() == sorted(
        TOKENS.features.norm(dim=-1).topk(6).indices.tolist()
    )


def test_full_and_blind_take_no_budget():
    assert select("full", None).indices.tolist() == list(range(48))
    assert select("full", 48).kept_tokens == 48
    assert select("blind", None).kept_tokens == 0
    with pytest.raises(InvalidValueError, match="budget 12 of selector full: it keeps all 48"):
        select("full", 12)
    with pytest.raises(InvalidValueError, match="budget 12 of selector blind"):
        select("blind", 12)
    with pytest.raises(InvalidValueError, match="selector divprune needs a budget"):
        select("divprune", None)


def test_resize_encodes_the_smaller_image():
    asked = []

    def encode(grid):
        asked.append(grid)
        return torch.full((grid[0] * grid[1], 24), 7.0)

    tokens = dataclasses.replace(sample_tokens(n_visual=144), grid=(12, 12), pixels_encoder=encode)
    answer = select("resize", 17, tokens)
    assert asked == [(4, 4)]
    assert answer.kept_tokens == 16
    assert (answer.merged == 7).all()
    assert answer.indices.tolist() == select("uniform_grid", 16, tokens).indices.tolist()
    wrong = dataclasses.replace(tokens, pixels_encoder=lambda grid: torch.zeros(3, 24))
    with pytest.raises(InvalidValueError, match="the resized image has 3 visual tokens, not 4 x 4"):
        select("resize", 16, wrong)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (24, 24), (6, 8), (3, 40)])
def test_smaller_grids_fit_and_are_large(height, width):
    for k in range(1, height * width + 1):
        rows, columns = smaller_grid(height, width, k)
        assert 1 <= rows <= height
        assert 1 <= columns <= width
        assert 0.6 * k <= rows * columns <= k, (k, rows, columns)


def test_a_missing_need_is_named():
    with pytest.raises(InvalidValueError, match="selector cls_attention needs 'cls_attention'"):
        select("cls_attention", 3, VisualTokens(projected=torch.zeros(6, 2)))


def test_greedy_selector_is_greedy():
    assert select("divprune", 7).indices.tolist() == greedy(TOKENS.projected, 7).sort().values.tolist()

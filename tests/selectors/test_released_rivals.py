"""VisPruner, MMTok, CDPruner, SCOPE and HiPrune keep what their released functions keep (tests/golden/rivals)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.coverage import greedy_coverage
from zoo_exp.core.dpp import conditional_dpp
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.question import keywords
from zoo_exp.models.qwen_encoder import tokens_of
from zoo_exp.selectors.hiprune import with_neighbours
from zoo_exp.selectors.mmtok import padding_patches
from zoo_exp.selectors.vispruner import VisPruner, thin_out

GOLDEN = Path(__file__).parents[1] / "golden" / "rivals"
CASES = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))["cases"]


def load(name):
    return {
        key: value if value.dtype.kind == "U" else torch.from_numpy(value)
        for key, value in np.load(GOLDEN / f"{name}.npz").items()
    }


def runs(*methods, but=()):
    """Every run of some methods, as (case, run)."""
    return [
        pytest.param(name, run, id=f"{name}-{run['name']}")
        for name, case in CASES.items()
        for run in case["runs"]
        if case["method"] in methods and name not in but and run["budget"]
    ]


def select(method, tokens, budget, **options):
    return selectors.get(method, **options).select(tokens, budget, torch.Generator().manual_seed(0)).indices


def same(case, run, indices):
    """Whether the kept set is the released one, tokens that repeat another apart."""
    expected, classes = case[f"{run['name']}_kept"], case.get("tie_class")
    if classes is None:
        return indices.tolist() == expected.tolist()
    return classes[indices].sort().values.tolist() == classes[expected].sort().values.tolist()


@pytest.mark.parametrize(("name", "run"), runs("VisPruner"))
def test_vispruner(name, run):
    case = load(name)
    attention = case["cls_attention_heads"].double().mean(dim=0)
    tokens = VisualTokens(
        projected=case["features"], features=case["features"], cls_attention=attention.float()
    )
    assert same(case, run, select("vispruner", tokens, run["budget"], **run["options"]))


def test_vispruner_reaches_counts_at_which_the_release_fails():
    features = torch.randn(576, 16, generator=torch.Generator().manual_seed(0))
    for k in (5, 33, 288):  # what K = 10, 11, 66 and others ask for
        assert len(thin_out(features, torch.arange(571), k).unique()) == k


@pytest.mark.parametrize(("name", "run"), runs("MMTok", but=("mmtok_excluded",)))
@pytest.mark.parametrize("filled", ["text", "question_words"])
def test_mmtok(name, run, filled):
    """`question_words` is what an adapter fills; without them `text` stands for the words."""
    case = load(name)
    rows = {"text": case["text"]}
    if filled == "question_words":
        rows = {"text": case["text"][:1] * 0 + 1, "question_words": {"keywords": case["text"]}}
    tokens = VisualTokens(projected=case["projected"], features=case["features"], **rows)
    assert same(case, run, select("mmtok", tokens, run["budget"], **run["options"]))


def test_mmtok_on_qwen_takes_all_words_and_its_own_temperature():
    case, run = load("mmtok_qwen"), CASES["mmtok_qwen"]["runs"][1]
    words = {"all": case["text"], "keywords": case["text"][:2]}
    tokens = VisualTokens(
        projected=case["projected"],
        features=case["features"],
        text=case["text"][:1],
        question_words=words,
        family="qwen2_5_vl",
    )
    assert same(case, run, select("mmtok", tokens, run["budget"]))
    assert not same(case, run, select("mmtok", tokens, run["budget"], words="keywords"))
    own = selectors.get("mmtok").cover(case["projected"], case["features"], case["text"], 0.01)
    assert greedy_coverage(own, 26).sort().values.tolist() == select("mmtok", tokens, 26).tolist()
    assert not same(case, run, select("mmtok", tokens, run["budget"], text_temperature=0.5))


def test_mmtok_never_picks_excluded_patches():
    case = load("mmtok_excluded")
    excluded = torch.zeros(64, dtype=torch.bool)
    excluded[case["excluded"]] = True
    cover = selectors.get("mmtok").cover(case["projected"], case["features"], case["text"], 0.02)
    assert greedy_coverage(cover, 16, excluded=excluded).sort().values.tolist() == case["k16_kept"].tolist()


def test_mmtok_padding():
    case = load("mmtok_padding")
    parts = case["indices"].split(case["counts"].tolist())
    for (width, height), expected in zip(case["sizes"].tolist(), parts, strict=True):
        assert padding_patches(width, height, 24) == expected.sort().values.tolist(), (width, height)


def test_mmtok_words():
    case = load("mmtok_text")
    for question, words in zip(case["questions"], case["words"], strict=True):
        assert " ".join(keywords(str(question))) == str(words)


@pytest.mark.parametrize(("name", "run"), runs("CDPruner", but=("cdpruner_clip_tiles",)))
def test_cdpruner(name, run):
    case = load(name)
    if "clip_text" not in case:  # the picks alone, from a given relevance
        order = conditional_dpp(case["projected"], case["relevance"].float(), run["budget"])
        assert order.tolist() == case[f"{run['name']}_order"].tolist()
        return
    tokens = VisualTokens(
        projected=case["projected"], clip_image=case["clip_image"], clip_text=case["clip_text"]
    )
    selector = selectors.get("cdpruner", relevance="clip")
    torch.testing.assert_close(selector.score(tokens, None).double(), case["relevance"], rtol=0, atol=1e-6)
    assert same(case, run, select("cdpruner", tokens, run["budget"], relevance="clip"))


@pytest.mark.parametrize("run", CASES["cdpruner_clip_tiles"]["runs"], ids=["k6", "k12"])
@pytest.mark.parametrize("newlines", [False, True])
def test_cdpruner_on_tiles(run, newlines):
    """The relevance is scaled over all tiles and over patches only; newlines change nothing."""
    case = load("cdpruner_clip_tiles")
    tiles, n, _ = case["projected"].shape
    side, rows, clip, tile = int(case["side"]), [], [], []
    for t in range(tiles):
        for start in range(0, n, side):
            part = slice(start, start + side)
            rows.append(case["projected"][t, part])
            clip.append(case["clip_image"][t, part])
            tile += [t] * side
            if newlines:
                rows.append(case["newline_projected"][None])
                clip.append(torch.zeros(1, clip[-1].shape[1]))
                tile.append(-1)
    tile = torch.tensor(tile)
    tokens = VisualTokens(
        projected=torch.cat(rows), clip_image=torch.cat(clip), clip_text=case["clip_text"], tile=tile
    )
    kept = select("cdpruner", tokens, Budget(count=run["budget"], per="tile"), relevance="clip")
    patches = (tile >= 0).nonzero().flatten()
    number = torch.full((len(tile),), -1)
    number[patches] = torch.arange(len(patches))
    expected = case[f"{run['name']}_kept"]
    if expected.ndim == 2:
        expected = torch.cat([row + t * n for t, row in enumerate(expected)])
    assert number[kept].tolist() == expected.sort().values.tolist()


@pytest.mark.parametrize(("name", "run"), runs("SCOPE"))
def test_scope(name, run):
    case = load(name)
    heads = case["cls_attention_heads"]
    tokens = VisualTokens(
        projected=case["features"],
        features=case["features"],
        cls_attention=heads.double().mean(dim=0).float(),
        attention_heads=len(heads),
    )
    assert same(case, run, select("scope", tokens, run["budget"], **run["options"]))


@pytest.mark.parametrize(("name", "run"), runs("HiPrune"))
def test_hiprune(name, run):
    """On Qwen2.5-VL: the release's form whose count is exact (`kept`), not the one that counts tokens twice."""
    case = load(name)
    rows, columns = case["grid"].tolist()
    tokens = VisualTokens(
        projected=torch.zeros(rows * columns, 2),
        received_attention=case["received_attention"],
        object_attention=case["object_attention"],
        grid=(rows, columns),
    )
    assert same(case, run, select("hiprune", tokens, run["budget"], **run["options"]))
    anchors = case["object_attention"].sort(descending=True, stable=True).indices[: run["anchors"]]
    both = f"{run['name']}_anchors_buffers"
    assert with_neighbours(anchors, tokens).sort().values.tolist() == case[both].unique().tolist()


def test_hiprune_attention_is_the_mean_over_all_queries_with_cls():
    case = load("hiprune_full_attention")
    for full, reduced in (
        ("object_attention_full", "object_attention"),
        ("deep_attention_full", "received_attention"),
    ):
        ours = case[full].mean(dim=(0, 1))[
            1:
        ]  # `ClipEncoder.rows`: mean over heads and queries, CLS column off
        torch.testing.assert_close(ours.double(), case[reduced], rtol=1e-5, atol=0)


def test_hiprune_on_qwen_reduces_to_tokens_in_raster_order():
    """`QwenEncoder.attention`: the release's sums, divided by the number of queries."""
    case = load("hiprune_qwen_reduction")
    per_patch = case["attention"].double().mean(dim=(0, 1))
    ours = tokens_of(per_patch[:, None], case["reverse"]).mean(dim=1)
    torch.testing.assert_close(ours * len(per_patch), case["reduced"], rtol=1e-6, atol=0)


def test_every_case_is_tested():
    assert len(CASES) == 43
    assert {case["method"] for case in CASES.values()} == {
        *("VisPruner", "MMTok", "CDPruner", "DART", "SCOPE", "HiPrune"),
    }


def test_listing_names_the_verified_release():
    proven = "vispruner mmtok cdpruner scope hiprune dart zoo divprune visionzip fastv sparsevlm"
    for name in proven.split():
        paper = type(selectors.get(name)).paper
        assert "as released (" in paper, name
    assert "aefa01a" in VisPruner.paper

"""VisionZip on tiled images as released: golden order of rows, and end to end on a tiny LLaVA-NeXT."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.merging import dominant_and_contextual
from zoo_exp.core.tokens import Tiles, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.feature_cache import FeatureCache
from zoo_exp.models.families import adapter_for
from zoo_exp.models.tensor_store import TensorStore
from zoo_exp.models.tiny import tiny_inputs, tiny_model

GOLDEN = Path(__file__).parents[1] / "golden" / "selection"
RELEASED = selectors.get("visionzip", variant="official_code")


def generator():
    return torch.Generator().manual_seed(0)


def coded_tile(number, kept, contextual):
    """A tile of 576 patches, the best of which are `kept` (places from 1); tile * 1000 + slot is what rows carry."""
    attention = torch.full((576,), 1e-3)
    attention[kept - 1] = 1.0
    rest = [i for i in range(576) if i + 1 not in set(kept.tolist())]
    targets = rest[:: len(rest) // contextual][:contextual]
    features = torch.zeros(576, 1, dtype=torch.float32)
    features[kept.sort().values - 1, 0] = 1000 * number + torch.arange(1.0, len(kept) + 1)
    features[targets, 0] = 1000 * number + len(kept) + 1 + torch.arange(float(contextual))
    keys = torch.randn(576, 4, generator=torch.Generator().manual_seed(number))
    return VisualTokens(
        projected=features,
        features=features,
        project=lambda x: x,
        grid=(24, 24),
        cls_attention=attention,
        keys=keys,
        cls=torch.tensor([1000.0 * number]),
    )


def coded_image(tiles, grid, cropped=()):
    """Tiles in a sequence: the base, then the rest row by row with a newline each; `cropped` rows left out."""
    source = [torch.arange(576)]
    for row in range(24 * grid[0]):
        if row not in cropped:
            down, r = divmod(row, 24)
            parts = [(1 + down * grid[1] + c) * 576 + r * 24 + torch.arange(24) for c in range(grid[1])]
            source += [*parts, torch.tensor([-1])]
    source = torch.cat(source)
    attention = torch.cat([t.cls_attention for t in tiles])[source.clamp(min=0)] * (source >= 0)
    return dataclasses.replace(
        tiles[0],
        projected=torch.zeros(len(source), 1),
        features=torch.zeros(len(source), 1),
        keys=torch.zeros(len(source), 4),
        cls_attention=attention,
        grid=None,
        tile=torch.where(source < 0, -1, source // 576),
        tiles=Tiles(tuple(tiles), source, grid),
    )


@pytest.mark.parametrize(
    ("name", "contextual", "grid"),
    [("visionzip_next_order_1x2", 10, (2, 1)), ("visionzip_next_order_2x2", 5, (2, 2))],
)
def test_rows_of_tiles_come_in_the_released_order(name, contextual, grid):
    """The golden order is that of the tiles behind the base tile, which comes first, as it is."""
    case = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}
    kept = case["keep_idx"]
    k = kept.shape[1] + contextual
    base = coded_tile(90, kept[0][1:], contextual)
    tiles = [base, *(coded_tile(t, row[1:], contextual) for t, row in enumerate(kept))]
    answer = RELEASED.select(coded_image(tiles, grid), Budget(count=k, per="tile"), generator())
    rows = answer.merged[:, 0].round().long()
    assert rows[:k].tolist() == [90_000 + slot for slot in range(k)]
    assert rows[k:].tolist() == case["order"].tolist()
    assert answer.kept_tokens == k * (len(kept) + 1)


def random_tiles(seed, n):
    """Tiles with random features; the attention ranks them."""
    g = torch.Generator().manual_seed(seed)
    places = [torch.randperm(576, generator=g)[:20] + 1 for _ in range(n)]
    return [coded_tile(t, place, 4) for t, place in enumerate(places)]


def test_places_of_the_rows():
    """Patches keep their place; what has none takes a free one of its tile, and newlines only at the very end."""
    tiles = random_tiles(0, 3)
    image = coded_image(tiles, (1, 2), cropped=set(range(3, 24)))
    answer = RELEASED.select(image, Budget(count=20, per="tile"), generator())
    counts = [int((image.tile[answer.indices] == t).sum()) for t in (-1, 0, 1, 2)]
    assert counts == [0, 20, 20, 20]
    for t, tile in enumerate(tiles):
        split = dominant_and_contextual(tile.cls_attention, tile.keys, tile.features, 16, 3)
        flat = torch.cat([split.dominant, split.targets]) + 576 * t
        seen = torch.isin(image.tiles.source, flat).nonzero().flatten()
        assert torch.isin(seen, answer.indices).all()
    narrow = coded_image(tiles, (1, 2), cropped=set(range(1, 24)))  # 24 places of each tile, and one newline
    answer = RELEASED.select(narrow, Budget(count=200, per="tile"), generator())
    assert answer.kept_tokens == 600
    assert (narrow.tile[answer.indices] == 0).sum() == 576 - (625 - 600 - 1)
    assert torch.isin(torch.tensor(-1), narrow.tile[answer.indices]).logical_not()
    every = RELEASED.select(narrow, Budget(count=208, per="tile"), generator())
    assert torch.equal(every.indices, torch.arange(624))
    assert RELEASED.select(narrow, "<= 400/tile", generator()).kept_tokens == 624
    with pytest.raises(InvalidValueError, match="at most 208 per tile"):
        RELEASED.select(narrow, Budget(count=209, per="tile"), generator())


@pytest.mark.parametrize(("budget", "total"), [(62, 62), (2, 2), ("10%", 173), (640, 640)])
def test_a_budget_per_image_is_kept_exactly(budget, total):
    image = coded_image(random_tiles(1, 3), (1, 2))
    answer = RELEASED.select(image, budget, generator())
    assert answer.kept_tokens == len(answer.merged) == total
    assert (answer.indices.diff() > 0).all()


def test_everything_nothing_and_newlines():
    image = coded_image(random_tiles(2, 3), (1, 2))
    every = image.count
    for budget, kept in (
        (every, every),
        (1.0, every),
        ("<= 9999", every),
        (1728, 1728),
        (Budget(count=0), 0),
    ):
        answer = RELEASED.select(image, budget, generator())
        assert (answer.kept_tokens, answer.merged) == (kept, None)
    assert RELEASED.select(image, Budget(count=0, per="tile"), generator()).kept_tokens == 0
    with pytest.raises(InvalidValueError, match="no newline tokens"):
        dataclasses.replace(RELEASED, newline="keep").select(image, 60, generator())
    with pytest.raises(InvalidValueError, match="needs a budget"):
        RELEASED.select(image, None, generator())


@torch.no_grad()
def slow_rows(model, given, dominant, contextual):
    """What the release puts in place of one image, from an eager encoder's own outputs, one tile at a time."""
    pixels = given["pixel_values"][0]
    vision_model, projector = model.model.vision_tower, model.model.multi_modal_projector
    out = vision_model(pixels, output_attentions=True, output_hidden_states=True)
    layer = vision_model.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-3])).unflatten(-1, (4, 8)).mean(2)
    tiles = []
    for attention, hidden, key in zip(out.attentions[-2], out.hidden_states[-2], keys, strict=True):
        best = attention[:, 0, 1:].sum(0).topk(dominant - 1).indices.sort().values + 1
        rest = [i for i in range(1, 17) if i not in best.tolist()]
        targets = rest[:: max(1, len(rest) // contextual)][:contextual]
        groups = {t: [] for t in targets}
        for i in rest:
            if i not in targets:
                likeness = torch.cosine_similarity(key[i][None], key[targets])
                groups[targets[int(likeness.argmax())]].append(hidden[i])
        merged = [hidden[t] + (torch.stack(m).mean(0) if m else 0) for t, m in groups.items()]
        tiles.append((best - 1, projector(torch.stack([hidden[0], *hidden[best], *merged]))))
    rows, columns = adapter_for(model).tile_grid(given["image_sizes"][0])
    raster = []
    for row in range(4 * rows):
        for column in range(4 * columns):
            t = 1 + (row // 4) * columns + column // 4
            place = 4 * (row % 4) + column % 4
            raster += [tiles[t][1][1 + i] for i, p in enumerate(tiles[t][0].tolist()) if p == place]
    cls = [t[1][0] for t in tiles[1:]]
    contexts = [t[1][dominant:] for t in tiles[1:]]
    return torch.cat([tiles[0][1], torch.stack([*raster, *cls]), *contexts])


@pytest.mark.parametrize("size", [(100, 60), (56, 150), (112, 112)])
def test_the_engine_reads_the_released_rows(size):
    """Logits equal those of a prompt put together by hand, with the rows of whole tiles."""
    eager, model = (tiny_model("llava_next", attention=a) for a in ("eager", "sdpa"))
    given = tiny_inputs(model, [[size]])
    rows = slow_rows(eager, given, 4, 2)
    rule = dataclasses.replace(RELEASED, contextual_share=2 / 6)
    with zoo_exp.pruned(model, rule, Budget(count=6, per="tile")) as pruning, torch.no_grad():
        logits = model(**given).logits
    assert pruning.kept_tokens == [len(rows)]
    # Two attention kernels in float32, on features up to 80.
    torch.testing.assert_close(
        pruning.selections[0][0].merged, rows, atol=1e-6 * float(rows.abs().max()), rtol=1e-5
    )
    ids = given["input_ids"][0]
    embeds, slots = model.get_input_embeddings()(ids), (ids == model.config.image_token_id).nonzero()
    before, behind = embeds[: int(slots[0])], embeds[int(slots[-1]) + 1 :]
    with torch.no_grad():
        by_hand = model(inputs_embeds=torch.cat([before, rows, behind])[None]).logits
    assert float((logits[:, -1] - by_hand[:, -1]).norm() / by_hand[:, -1].norm()) < 1e-5


def test_whole_tiles_of_an_image_that_cropping_leaves_none_of():
    """Only the middle one of three tiles survives; the next image's tiles are still its own."""
    model = tiny_model("llava_next")
    model.config.image_grid_pinpoints = [[168, 56]]
    given = tiny_inputs(model, [[(56, 56), (56, 56)]])
    needs = RELEASED.needs
    (images,) = adapter_for(model).encode(given, needs)
    pooled = model.model.get_image_features(given["pixel_values"], given["image_sizes"], return_dict=True)
    flat = given["pixel_values"].flatten(0, 1)
    with torch.no_grad():
        hidden = model.model.vision_tower(flat, output_hidden_states=True).hidden_states[-2]
    for i, (image, rows) in enumerate(zip(images, pooled.pooler_output, strict=True)):
        assert torch.equal(image.projected, rows)
        assert sorted(image.tile.unique().tolist()) == [-1, 0, 2]
        assert len(image.tiles.images) == 4
        assert image.tiles.grid == (3, 1)
        real = image.tile >= 0
        torch.testing.assert_close(image.project(image.features)[real], rows[real], atol=1e-5, rtol=1e-5)
        for t, tile in enumerate(image.tiles.images):
            torch.testing.assert_close(tile.cls, hidden[4 * i + t, 0])
            torch.testing.assert_close(tile.features, hidden[4 * i + t, 1:])


def test_a_feature_cache_does_not_lose_the_tiles(tmp_path):
    """An entry has no place for whole tiles, so a tiled image with CLS tokens is encoded again."""
    model = tiny_model("llava_next")
    given = tiny_inputs(model, [[(100, 60)]])
    cache = FeatureCache(adapter_for(model), TensorStore(tmp_path), "m")
    answers = []
    for _ in range(2):
        ((image,),) = cache.encode(given, RELEASED.needs)
        answers.append(RELEASED.select(image, "6/tile", generator()))
    assert cache.hits == 0
    assert torch.equal(answers[0].merged, answers[1].merged)
    assert torch.equal(answers[0].indices, answers[1].indices)

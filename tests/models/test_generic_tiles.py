"""A budget is one of an image, whatever tiles a family cuts it into and however it returns them."""

import pytest
import torch
from PIL import Image
from test_generic_families import EveryOther, answer, error
from tiny_configs import END, IMAGE, START
from tiny_families import reference, tiny_family, with_types

import zoo_exp
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.seen import seen_all

WHOLE, ROW = 81, 82
"""Tokens before a whole image, and before its first tile; the second one has 83."""


def prompt(model, tiles):
    """One prompt whose images have `tiles[i]` tiles."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(sum(tiles), 3, 56, 56, generator=generator)
    separate = model.config.model_type == "smolvlm"
    given = {"pixel_values": pixels[None] if separate else pixels}
    with torch.no_grad():
        rows = model.model.get_image_features(**given, return_dict=True).pooler_output
    n = sum(r.numel() // r.shape[-1] for r in rows) // sum(tiles)
    ids = [1, 5, 6]
    for count in tiles:
        if separate:
            for tile in range(count):
                ids += [START, WHOLE if tile == count - 1 else ROW + tile, *[IMAGE] * n]
        else:
            ids += [START, *[IMAGE] * n * count]
        ids += [END, 7, 8]
    ids = torch.tensor([ids])
    return n, with_types(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given})


@pytest.mark.parametrize("model_type", ["internvl", "smolvlm"])
def test_tiles_belong_to_their_image(model_type):
    model = tiny_family(model_type)
    adapter = adapter_for(model)
    n, given = prompt(model, (3, 1))
    first, second = adapter.encode(given, frozenset())[0]
    assert first.tile.tolist() == [tile for tile in range(3) for _ in range(n)]
    assert (second.count, second.tile, first.grid) == (n, None, None)
    half = n // 2
    for budget, kept in ((2, [2, 2]), ("50%", [3 * n // 2, half]), (f"<={half}/tile", [3 * half, half])):
        with zoo_exp.pruned(model, "divprune", budget) as pruning:
            answer(model, given, 1)
        assert [s.kept_tokens for s in pruning.selections[0]] == kept
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        ids, logits = answer(model, given, 3)
    keep = torch.cat([s.indices + 3 * n * i for i, s in enumerate(pruning.selections[0])])
    expected = reference(model, given, keep, None, 3)
    assert error(logits[0], expected) < 1e-5
    tokens = adapter.encode(given, frozenset())
    pruned = prune_prompt(adapter, given, tokens, pruning.selections)
    assert torch.equal(generate_pruned(model, pruned, max_new_tokens=3, do_sample=False), ids[:, -3:])


def test_tiles_of_an_image_are_shown_as_a_raster():
    model = tiny_family("internvl")
    n, given = prompt(model, (3,))
    (image,) = adapter_for(model).encode(given, frozenset())[0]
    view = seen_all([image], Image.new("RGB", (30, 20)), given, None)
    side = round(n**0.5)
    assert (view.grid, len(view.cells)) == ((2 * side, 2 * side), 3 * n)


def test_a_prompt_of_another_form_keeps_what_the_model_gives():
    """Tiles that words separate are images of their own."""
    model = tiny_family("internvl")
    n, given = prompt(model, (2,))
    ids = given["input_ids"].clone()
    at = (ids[0] == IMAGE).nonzero()[n]
    apart = torch.cat([ids[:, :at], torch.tensor([[9]]), ids[:, at:]], dim=1)
    images = adapter_for(model).encode({**given, "input_ids": apart}, frozenset())[0]
    assert [i.count for i in images] == [n, n]
    inside = torch.cat([ids[:, : at - 1], torch.tensor([[9]]), ids[:, at - 1 :]], dim=1)
    images = adapter_for(model).encode({**given, "input_ids": inside}, frozenset())[0]
    assert [i.count for i in images] == [n, n]

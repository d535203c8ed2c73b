"""Every model that ships: keeping every token, pruned logits against a dense reference, the selectors' contract."""

from functools import partial

import pytest
import torch

import zoo_exp
from zoo_exp import selectors, tasks
from zoo_exp.embedded.shipped import FOLDERS, ROOM
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import load_model
from zoo_exp.tasks import data
from zoo_exp.testing import contract
from zoo_exp.testing.sample_images import part_of

TASK = {
    "embedded": "world2_mme", "embedded_next": "world2_tiles_mme", "embedded_qwen": "world2_sizes_mme",
    "embedded_world1": "embedded_mme",
}  # fmt: skip
STEPS = 2


@pytest.fixture(scope="module", params=FOLDERS)
def shipped(request):
    """A model with a batch of two questions about images of its own world."""
    if not (ROOM / FOLDERS[request.param] / "model.safetensors").is_file():
        pytest.skip(f"{request.param} ships without weights")
    loaded = load_model(request.param, dtype="float32")
    task = tasks.get(TASK[request.param])
    rows = list(data.load(task, None, 2))[::2]
    chats = [user_turn(task.content(row, "embedded")) for row in rows]
    return loaded, chat_inputs(loaded.processor, chats)


@torch.no_grad()
def logits(model, given):
    found = model.generate(
        **given, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(found.logits), found.sequences


@pytest.mark.parametrize("selector", ["zoo", "fastv"])
def test_keeping_every_token_is_bit_identical(shipped, selector):
    loaded, given = shipped
    plain = logits(loaded.model, given)
    with zoo_exp.pruned(loaded.model, selector, budget="100%"):
        kept = logits(loaded.model, given)
    assert torch.equal(plain[0], kept[0])
    assert torch.equal(plain[1], kept[1])


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@torch.no_grad()
def test_pruned_logits_are_those_of_a_dense_reference(shipped, positions):
    """Row by row, from the kept embeddings and their positions, without cache and hooks."""
    loaded, given = shipped
    model = loaded.model
    with zoo_exp.pruned(model, "zoo", budget="10%", positions=positions) as pruning:
        found = logits(model, given)[0][0]
    tokens = loaded.adapter.encode(given, frozenset({"hidden"}))
    for row, (images, chosen) in enumerate(zip(tokens, pruning.selections, strict=True)):
        real = given["attention_mask"][row].bool()
        ids = given["input_ids"][row, real]
        keep = ids != model.config.image_token_id
        slots = (~keep).nonzero().flatten()
        embeds = model.get_input_embeddings()(ids)
        assert len(slots) == images[0].count
        keep[slots[chosen[0].indices]] = True
        embeds[slots] = images[0].projected
        place = loaded.adapter.position_ids(given["input_ids"][row, real][None], real[real][None], images)
        place = place[..., keep]
        if positions == "contiguous":
            place = torch.arange(int(keep.sum())).expand(place.shape)
        mask = torch.ones(
            1, int(keep.sum()), dtype=torch.long
        )  # without it, gaps in positions split the prompt
        hidden = model.model.language_model(
            inputs_embeds=embeds[keep][None], attention_mask=mask, position_ids=place, use_cache=False
        ).last_hidden_state
        torch.testing.assert_close(found[row], model.lm_head(hidden[0, -1]), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["zoo", "divprune", "random", "feature_norm"])
def test_selectors_keep_their_contract_on_its_tokens(shipped, name, monkeypatch):
    loaded, given = shipped
    selector = selectors.get(name)
    tokens = loaded.adapter.encode(given, selector.needs)[0][0]
    if tokens.tile is not None:  # newlines do not count; the suite has tiles of its own for them
        tokens = part_of(tokens, (tokens.tile != -1).nonzero().flatten())
    monkeypatch.setattr(contract, "sample_tokens", lambda *_, **__: tokens)
    for check in ("count_and_order", "everything_and_nothing", "determinism"):
        partial(getattr(contract, f"check_{check}"), selector)()

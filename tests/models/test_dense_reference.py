"""Pruned prompts against a reference with manually constructed embeddings, mask and positions, without a cache."""

import pytest
import torch
from own_families import FAMILIES

import zoo_exp
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import generate_pruned, prune_prompt

STEPS = 8


def image_features(model, given):
    """What the model itself puts in place of the placeholders."""
    names = ("pixel_values", "image_sizes", "image_grid_thw")
    call = {n: given[n] for n in names if n in given}
    return list(model.model.get_image_features(**call, return_dict=True).pooler_output) if call else []


def full_positions(model, given, b, real):
    """Positions of one unpruned row [3 or 1, n]."""
    if model.config.model_type != "qwen2_5_vl":
        return torch.arange(int(real.sum()))[None]
    placeholders = given["input_ids"] == model.config.image_token_id
    sizes = (given["image_grid_thw"].prod(1) // 4).tolist()
    before = int(placeholders[:b].sum())
    first = next(i for i in range(len(sizes) + 1) if sum(sizes[:i]) == before)
    count = int(placeholders[b].sum())
    last = next(i for i in range(first, len(sizes) + 1) if sum(sizes[first:i]) == count)
    if first == last:
        return torch.arange(int(real.sum())).expand(3, -1)
    ids = given["input_ids"][b, real][None]
    kinds = given["mm_token_type_ids"][b, real][None]
    grids = given["image_grid_thw"][first:last]
    return model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)[0][:, 0]


@torch.no_grad()
def reference(model, given, step, merge, positions):
    """Greedy ids [B, STEPS] and logits [STEPS, B, V]: every row alone, every step from scratch."""
    llm, embed, head = model.model.language_model, model.get_input_embeddings(), model.lm_head
    features = iter(image_features(model, given))
    all_ids, all_logits = [], []
    for b, row in enumerate(given["input_ids"]):
        real = given["attention_mask"][b].bool()
        ids = row[real]
        embeds = embed(ids)
        keep = ids != model.config.image_token_id
        slots = (~keep).nonzero().flatten().tolist()
        while slots:
            image = next(features)
            mine, slots = slots[: len(image)], slots[len(image) :]
            for place in range(len(image) % 2, len(image), step):
                keep[mine[place]] = True
                embeds[mine[place]] = image[place] * (2 if merge else 1)
        embeds, axes = embeds[keep], full_positions(model, given, b, real)[:, keep]
        if positions == "contiguous" and not keep.all():
            axes = torch.arange(len(embeds)).expand(len(axes), -1)
        ids, logits = [], []
        for _ in range(STEPS):
            n = len(embeds)
            place = axes[:, None] if len(axes) == 3 else axes
            out = llm(
                inputs_embeds=embeds[None],
                attention_mask=torch.ones(1, n, dtype=torch.long),
                position_ids=place,
                use_cache=False,
            )
            logits.append(head(out.last_hidden_state[0, -1]))
            ids.append(int(logits[-1].argmax()))
            embeds = torch.cat([embeds, embed(torch.tensor(ids[-1:]))])
            axes = torch.cat([axes, axes[:, -1:] + 1], dim=1)
        all_ids.append(ids)
        all_logits.append(torch.stack(logits))
    return torch.tensor(all_ids), torch.stack(all_logits, dim=1)


@pytest.mark.parametrize("merge", [False, True], ids=["kept", "merged"])
@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("layout", ["one", "two images", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_routes_equal_the_reference(family, layout, positions, merge, models, inputs, answer, every):
    model = models(family, dtype=torch.float64)  # so that only mistakes differ, not kernels
    given = inputs(model, layout)
    ids, logits = reference(model, given, 3, merge, positions)
    selector = every(merge=merge)
    with zoo_exp.pruned(model, selector, positions=positions) as pruning:
        hooked_ids, hooked = answer(model, given)
    torch.testing.assert_close(hooked, logits.float(), atol=5e-6, rtol=1e-6)
    assert torch.equal(hooked_ids, ids)

    adapter = adapter_for(model)
    tokens = adapter.encode(given, selector.needs)
    prompt = prune_prompt(adapter, given, tokens, pruning.selections, positions)
    out = generate_pruned(
        model, prompt, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    torch.testing.assert_close(torch.stack(out.logits), logits.float(), atol=5e-6, rtol=1e-6)
    assert torch.equal(out.sequences, ids)
    assert prompt.kept_tokens == pruning.kept_tokens
    assert prompt.kept_tokens == [sum(s.kept_tokens for s in row) for row in pruning.selections]


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_within_its_rounding(family, models, inputs, answer, every):
    model = models(family)
    given = inputs(model, "ragged")
    _, logits = reference(model, given, 3, False, "original")
    with zoo_exp.pruned(model, every(), positions="original"):
        _, hooked = answer(model, given)
    assert float((hooked - logits).norm() / logits.norm()) < 1e-5


@pytest.mark.parametrize("mode", ["static", "no cache", "beams", "prompt lookup"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_ways_to_decode_agree(family, mode, models, inputs, every, answer, mixes_up_images):
    model = models(family)
    one = mode == "prompt lookup" or (mode == "beams" and mixes_up_images(family))
    given = inputs(model, "one" if one else "ragged")
    options = {
        "static": {"cache_implementation": "static"},
        "no cache": {"use_cache": False},
        "beams": {"num_beams": 3},
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
    }[mode]
    adapter = adapter_for(model)
    with zoo_exp.pruned(model, every()) as pruning, torch.no_grad():
        hooked = model.generate(**given, max_new_tokens=6, do_sample=False, **options)[:, -6:]
    tokens = adapter.encode(given, frozenset())
    selections = pruning.selections[:: len(pruning.selections) // len(tokens)]  # 5.17: one entry per beam
    prompt = prune_prompt(adapter, given, tokens, selections)
    if mode == "beams":
        plain = generate_pruned(model, prompt, max_new_tokens=6, do_sample=False, num_beams=3)
    else:
        plain = generate_pruned(model, prompt, max_new_tokens=6, do_sample=False)
    assert torch.equal(hooked, plain)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_selector_that_encodes_a_smaller_image(family, use_cache, models, inputs, answer):
    model = models(family)
    given = inputs(model, "ragged")
    with zoo_exp.pruned(model, "resize", 0.4) as pruning:
        ids, _ = answer(model, given, steps=3, use_cache=use_cache)
    adapter = adapter_for(model)
    tokens = adapter.encode(given, frozenset({"resize"}))
    prompt = prune_prompt(adapter, given, tokens, pruning.selections)
    assert torch.equal(ids, generate_pruned(model, prompt, max_new_tokens=3, do_sample=False))
    assert prompt.kept_tokens == pruning.kept_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_one_row_does_not_change_another(family, models, inputs, every, answer):
    model = models(family)
    batch = inputs(model, "ragged")
    adapter = adapter_for(model)
    tokens = adapter.encode(batch, frozenset())
    selections = [[every().select(t, None, None) for t in row] for row in tokens]
    together = prune_prompt(adapter, batch, tokens, selections)
    ids = generate_pruned(model, together, max_new_tokens=6, do_sample=False)
    for b in range(len(ids)):
        row = {name: batch[name][b : b + 1] for name in ("input_ids", "attention_mask")}
        alone = prune_prompt(adapter, row, tokens[b : b + 1], selections[b : b + 1])
        assert torch.equal(generate_pruned(model, alone, max_new_tokens=6, do_sample=False)[0], ids[b])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_pass_has_logits_for_every_input_token(family, models, inputs, every):
    model = models(family)
    given = inputs(model, "ragged")
    labels = given["input_ids"].masked_fill(given["input_ids"] == model.config.image_token_id, -100)
    with zoo_exp.pruned(model, every()) as pruning, torch.no_grad():
        out = model(**given, labels=labels)
    assert out.logits.shape[:2] == given["input_ids"].shape
    assert torch.isfinite(out.loss)
    dropped = (given["input_ids"] == model.config.image_token_id).sum(1) - torch.tensor(pruning.kept_tokens)
    padding = (given["attention_mask"] == 0).sum(1)
    assert torch.equal((out.logits == 0).all(-1).sum(1), dropped + padding)

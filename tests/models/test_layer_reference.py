"""Layer selectors against a slow reference without hooks or cache."""

import math

import pytest
import torch
from own_families import FAMILIES
from test_dense_reference import full_positions, image_features

import zoo_exp
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.selectors import get
from zoo_exp.selectors.layer.dart import Dart
from zoo_exp.selectors.layer.density_peaks import merge_by_density
from zoo_exp.selectors.layer.fastv import FastV
from zoo_exp.selectors.layer.sparsevlm import SparseVLM

STEPS = 8


def prompt_row(model, given, b, features):
    """Embeddings [n, D], visual tokens [n] and positions [3 or 1, n] of one row; `features` is an iterator."""
    real = given["attention_mask"][b].bool()
    ids = given["input_ids"][b, real]
    visual = ids == model.config.image_token_id
    embeds = model.get_input_embeddings()(ids)
    missing = int(visual.sum())
    rows = []
    while missing:
        rows.append(next(features))
        missing -= len(rows[-1])
    if rows:
        embeds[visual] = torch.cat(rows)
    return embeds, visual, full_positions(model, given, b, real)


def rotary(model, h, positions):
    place = positions[:, None] if len(positions) == 3 else positions
    return model.model.language_model.rotary_emb(h, place)


def attention_of(model, number, h, positions):
    """Full causal attention [H, n, n] and rotated keys [n, Hkv d] of one decoder layer, element by element."""
    layer = model.model.language_model.layers[number]
    attention = layer.self_attn
    normed = layer.input_layernorm(h)[0]
    cos, sin = (t[0] for t in rotary(model, h, positions))
    d, n = attention.head_dim, len(normed)

    def heads(x):
        x = x.view(n, -1, d)
        half = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
        return x * cos[:, None] + half * sin[:, None]

    q, k = heads(attention.q_proj(normed)), heads(attention.k_proj(normed))
    groups = q.shape[1] // k.shape[1]
    probabilities = torch.zeros(q.shape[1], n, n, dtype=q.dtype)
    for head in range(q.shape[1]):
        logits = q[:, head] @ k[:, head // groups].T / math.sqrt(d)
        probabilities[head] = logits.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf).softmax(-1)
    return probabilities, k.reshape(n, -1)


def fastv_rule(rule, count):
    def drop(model, number, h_in, h, visual, positions, state):
        attention, _ = attention_of(model, number, h_in, positions)
        mean = attention.mean(0)
        if rule == "last_token":
            score = mean[-1]
        else:
            n = len(mean)
            score = torch.tensor(
                [sum(float(mean[j, i]) for j in range(n) if j != i) / (n - 1) for i in range(n)]
            )
        places = visual.nonzero().flatten().tolist()
        best = sorted(places, key=lambda i: (-float(score[i]), i))[:count]
        return sorted(best), None

    return drop


def dart_rule(count, image_pivots=4, text_pivots=4):
    def drop(model, number, h_in, h, visual, positions, state):
        _, keys = attention_of(model, number, h_in, positions)
        norm = [float(row.abs().sum()) for row in keys]
        places = visual.nonzero().flatten().tolist()
        words = [i for i in range(len(norm)) if not visual[i] and i > places[0]]
        first = sorted(places, key=lambda i: -norm[i])[: min(image_pivots, count)]
        pivots = first + sorted(words, key=lambda i: -norm[i])[:text_pivots]
        states = model.model.language_model.norm(h)[0]
        kept = set(first)
        for pivot in pivots:
            like = {
                i: float(torch.cosine_similarity(states[pivot], states[i], dim=0))
                for i in places
                if i not in kept
            }
            kept |= set(sorted(like, key=lambda i: like[i])[: count // (image_pivots + text_pivots)])
        return sorted(kept), None

    return drop


def sparse_rule(count, version):
    def drop(model, number, h_in, h, visual, positions, state):
        attention, _ = attention_of(model, number, h_in, positions)
        places = visual.nonzero().flatten().tolist()
        rows = [state.index(r) for r in state.raters if r in state]
        part = attention[:, rows][:, :, places]
        if version == "2.0":
            d = model.model.language_model.layers[0].self_attn.head_dim
            cos, sin = (t[0] for t in rotary(model, h, positions))
            ones = torch.cat([cos[:, : d // 2] - sin[:, : d // 2], cos[:, d // 2 :] + sin[:, d // 2 :]], -1)
            part = part / (ones @ ones.T / math.sqrt(d))[rows][:, places]
        relevance = part.mean((0, 1))
        order = sorted(range(len(places)), key=lambda i: (-float(relevance[i]), i))
        kept = sorted(places[i] for i in order[: max(1, min(count, len(places) - 1))])
        if version == "2.0" or len(kept) == len(places):
            return kept, None
        dropped = [i for i in order if places[i] not in kept]
        best = [places[i] for i in dropped[: int(len(dropped) * 0.3) + 1]]
        return kept, merge_by_density(h[0, best], len(best) // 10 + 1)

    return drop


class Places(list):
    """Place in the prompt of every token of the current sequence (None for merged ones), and the raters."""

    raters: tuple


@torch.no_grad()
def reference(model, given, stages, keeps_positions):
    """Greedy ids and logits, and what stays; `stages(n_visual)` gives {layer: rule}."""
    llm, embed, head = model.model.language_model, model.get_input_embeddings(), model.lm_head
    features = iter(image_features(model, given))
    all_ids, all_logits, all_counts, all_left = [], [], [], []
    for b in range(len(given["input_ids"])):
        prompt, visual0, axes0 = prompt_row(model, given, b, features)
        rules = stages(int(visual0.sum())) if visual0.any() else {}
        raters = ()
        if visual0.any():
            first = int(visual0.nonzero()[0])
            text = [i for i in range(first, len(prompt)) if not visual0[i]]
            fit = (prompt[visual0] @ prompt[text].T).softmax(1).mean(0)
            raters = tuple(t for t, f in zip(text, fit.tolist(), strict=True) if f > float(fit.mean()))
        written, logits, ids = prompt[:0], [], []
        for _ in range(STEPS):
            h, visual, axes = prompt[None], visual0, axes0
            places = Places(range(len(prompt)))
            places.raters = raters
            new = written[None]
            counts = []
            for number, layer in enumerate(llm.layers):
                counts.append(int(visual.sum()))
                whole = torch.cat([h, new], 1)
                t = torch.arange(1, new.shape[1] + 1)
                positions = torch.cat([axes, axes[:, -1:] + t], 1)
                n = whole.shape[1]
                mask = torch.full((1, 1, n, n), -math.inf, dtype=whole.dtype).triu(1)
                out = layer(whole, attention_mask=mask, position_embeddings=rotary(model, whole, positions))
                out = out[0] if isinstance(out, tuple) else out
                before, length = h, h.shape[1]
                h, new = out[:, :length], out[:, length:]
                if number not in rules:
                    continue
                kept, merged = rules[number](model, number, before, h, visual, axes, places)
                last_kept = max(kept)
                stay = [i for i in range(length) if not visual[i] or i in kept]
                cut = 1 + max([i for i, s in enumerate(stay) if visual[s]], default=0)
                assert stay[cut - 1] == last_kept
                h2, v2, a2 = h[:, stay], visual[stay], axes[:, stay]
                p2 = [places[i] for i in stay]
                if merged is not None:
                    m = len(merged)
                    h2 = torch.cat([h2[:, :cut], merged[None], h2[:, cut:]], 1)
                    v2 = torch.cat([v2[:cut], torch.ones(m).bool(), v2[cut:]])
                    a2 = torch.cat([a2[:, :cut], a2[:, cut - 1 : cut].expand(-1, m), a2[:, cut:]], 1)
                    p2 = [*p2[:cut], *[None] * m, *p2[cut:]]
                if not keeps_positions:
                    a2 = torch.arange(h2.shape[1]).expand(len(axes), -1)
                h, visual, axes = h2, v2, a2
                places = Places(p2)
                places.raters = raters
            final = llm.norm(torch.cat([h, new], 1)[0, -1])
            logits.append(head(final))
            ids.append(int(logits[-1].argmax()))
            written = torch.cat([written, embed(torch.tensor(ids[-1:]))])
        all_ids.append(ids)
        all_logits.append(torch.stack(logits))
        all_counts.append(counts)
        image = visual0.nonzero().flatten().tolist()
        all_left.append([image.index(place) for place in places if place in image])
    return torch.tensor(all_ids), torch.stack(all_logits, 1), all_counts, all_left


def cases():
    sparse = {v: SparseVLM(version=v) for v in ("1.5", "2.0")}
    yield FastV(k=2), 0.4, lambda n: {1: fastv_rule("last_token", math.floor(0.4 * n + 0.5))}, True
    yield (
        FastV(k=1, rule="all_tokens"),
        0.4,
        lambda n: {0: fastv_rule("all_tokens", math.floor(0.4 * n + 0.5))},
        True,
    )
    yield (
        FastV(k=2, positions="contiguous"),
        5,
        lambda n: {1: fastv_rule("last_token", 5)},
        False,
    )
    yield Dart(k=2), 0.6, lambda n: {1: dart_rule(math.floor(0.6 * n + 0.5))}, True
    for version, selector in sparse.items():
        yield (
            selector,
            "22.2%",
            lambda n, s=selector, v=version: {
                layer: sparse_rule(count, v) for layer, count in s.schedule("22.2%", n, 4).items()
            },
            version == "2.0",
        )


CASES = list(cases())


@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("selector", "budget", "stages", "keeps_positions"),
    CASES,
    ids=["fastv", "fastv all", "fastv contiguous", "dart", "sparsevlm 1.5", "sparsevlm 2.0"],
)
def test_prefill_and_decode_equal_the_reference(
    selector, budget, stages, keeps_positions, family, layout, models, inputs, answer, mixes_up_images
):
    model = models(family, dtype=torch.float64)  # so that only mistakes differ, not kernels
    given = inputs(model, layout, text=(9, 12))
    ids, logits, counts, left = reference(model, given, stages, keeps_positions)
    with zoo_exp.pruned(model, selector, budget) as pruning:
        hooked_ids, hooked = answer(model, given)
        assert pruning.layer_counts == counts
        static_ids, static = answer(model, given, cache_implementation="static")
        if layout == "one" or not mixes_up_images(family):
            beams = model.generate(**given, max_new_tokens=4, num_beams=2, do_sample=False)
            assert beams.shape == (len(ids), given["input_ids"].shape[1] + 4)
    torch.testing.assert_close(hooked, logits.float(), atol=5e-6, rtol=1e-6)
    torch.testing.assert_close(static, logits.float(), atol=5e-6, rtol=1e-6)
    assert torch.equal(hooked_ids, ids)
    assert torch.equal(static_ids, ids)

    adapter = adapter_for(model)
    tokens = adapter.encode(given, frozenset())
    whole = [[get("full").select(t, None, torch.Generator()) for t in row] for row in tokens]
    prompt = prune_prompt(adapter, given, tokens, whole)
    route_a = generate_layer_pruned(adapter, prompt, selector, budget, max_new_tokens=STEPS, do_sample=False)
    assert torch.equal(route_a.new_tokens, ids)
    assert route_a.counts == counts
    assert route_a.left() == left

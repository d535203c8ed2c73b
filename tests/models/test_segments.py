"""Left-packing, shortening and inserting, against loops over lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.core.tokens import Selection
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for
from zoo_exp.models.prompt import left_pack, prune_prompt
from zoo_exp.models.segments import real_tokens, whole_prompt


@st.composite
def prompts(draw):
    """Real tokens, visual tokens among them, and tokens to keep: three masks [B, n]."""
    rows, n = draw(st.integers(1, 4)), draw(st.integers(1, 9))

    def mask(inside=None):
        flags = torch.tensor(draw(st.lists(st.booleans(), min_size=rows * n, max_size=rows * n)))
        flags = flags.view(rows, n)
        return flags if inside is None else flags & inside

    real = mask()
    real[:, -1] = True
    keep = mask(real)
    return real, mask(real), keep


@settings(deadline=None, max_examples=60)
@given(prompts())
def test_left_pack_equals_lists(masks):
    _, _, keep = masks
    order, mask = left_pack(keep)
    rows = [row.nonzero().flatten().tolist() for row in keep]
    longest = max(map(len, rows))
    assert order.shape == mask.shape == (len(rows), longest)
    for b, row in enumerate(rows):
        assert mask[b].tolist() == [False] * (longest - len(row)) + [True] * len(row)
        assert order[b, longest - len(row) :].tolist() == row


@settings(deadline=None, max_examples=60)
@given(prompts(), st.sampled_from(["contiguous", "original"]), st.booleans())
def test_shorten_equals_lists(masks, positions, three_axes):
    real, visual, keep = masks
    places = torch.randint(0, 50, (3, *real.shape) if three_axes else real.shape)
    segment = whole_prompt(real, visual, places)
    order, shorter = segment.shorten(keep, 5, positions)
    assert shorter.first == 5
    assert shorter.padded == bool((~shorter.mask).any())
    for b in range(len(real)):
        kept = keep[b].nonzero().flatten()
        n = len(kept)
        tail = slice(shorter.length - n, shorter.length)
        assert order[b, tail].tolist() == kept.tolist()
        assert shorter.source[b, tail].tolist() == kept.tolist()
        assert (shorter.source[b, : tail.start] == -1).all()
        assert shorter.visual[b, tail].tolist() == visual[b, kept].tolist()
        assert not shorter.visual[b, : tail.start].any()
        own = places[..., b, kept]
        if positions == "contiguous" and n < int(real[b].sum()):
            own = torch.arange(n).expand_as(own)
        assert torch.equal(shorter.positions[..., b, tail], own)


@settings(deadline=None, max_examples=40)
@given(prompts(), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.booleans())
def test_insert_equals_lists(masks, counts, three_axes):
    real, visual, _ = masks
    rows = len(real)
    places = torch.randint(0, 50, (3, *real.shape) if three_axes else real.shape)
    hidden = torch.randn(*real.shape, 2)
    extra = [torch.randn(counts[b], 2) for b in range(rows)]
    states, longer = whole_prompt(real, visual, places).insert(hidden, extra, "original")
    for b in range(rows):
        inside = real[b].nonzero().flatten().tolist()
        cut = max((i + 1 for i, c in enumerate(inside) if visual[b, c]), default=0)
        expected = (
            [hidden[b, c] for c in inside[:cut]] + list(extra[b]) + [hidden[b, c] for c in inside[cut:]]
        )
        n = len(expected)
        assert int(longer.mask[b].sum()) == n
        assert torch.equal(states[b, longer.length - n :], torch.stack(expected))
        sources = inside[:cut] + [-1] * counts[b] + inside[cut:]
        assert longer.source[b, longer.length - n :].tolist() == sources
        assert int(longer.visual[b].sum()) == int(visual[b].sum()) + counts[b]
        before = places[..., b, inside[max(0, cut - 1)]]
        start = longer.length - n + cut
        for i in range(counts[b]):
            assert torch.equal(longer.positions[..., b, start + i], before)


def test_all_forms_of_masks_are_equivalent():
    flat = torch.tensor([[0, 1, 1], [1, 1, 1]])
    wide = torch.zeros(2, 1, 3, 5, dtype=torch.bool)
    wide[:, 0, -1, :3] = flat.bool()
    float_mask = torch.zeros(2, 1, 3, 5).masked_fill(~wide, float("-inf"))
    for form in (flat, wide, float_mask, {"full_attention": wide}):
        assert torch.equal(real_tokens(form, 2, 3, 0, "cpu"), flat.bool())
    assert real_tokens(None, 2, 3, 0, "cpu").all()


def test_selections_that_do_not_fit_are_refused(models, inputs):
    model = models("llava")
    adapter, prompt = adapter_for(model), inputs(models("llava"), "two images")
    tokens = adapter.encode(prompt, frozenset())
    one = Selection(torch.arange(3))
    with pytest.raises(InvalidValueError, match="there are 2 images with 32 visual tokens and 1 selections"):
        prune_prompt(adapter, prompt, tokens, [[one]])
    with pytest.raises(InvalidValueError, match="allowed are contiguous, original"):
        prune_prompt(adapter, prompt, tokens, [[one, one]], "same")
    none = Selection(torch.arange(0))
    blind = prune_prompt(adapter, prompt, tokens, [[none, none]])
    assert blind.kept_tokens == [0]
    assert blind.inputs_embeds.shape[1] == int((prompt["input_ids"] != model.config.image_token_id).sum())

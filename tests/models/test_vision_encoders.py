"""Fields captured by adapters, against the model's outputs and slow recomputation."""

import pytest
import torch

from zoo_exp.core.closed_form import closed_form
from zoo_exp.core.sensitivity import draw_directions
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for, architecture, known_architectures
from zoo_exp.models.tiny import tiny_model
from zoo_exp.selectors import get

CLIP = ("llava", "llava_next")
FAMILIES = (*CLIP, "qwen2_5_vl")
NEEDS = frozenset(
    {"features", "projector", "cls_attention", "received_attention", "keys", "cls", "hidden", "replay"}
)


def encoded(model, given, needs=NEEDS):
    return [t for row in adapter_for(model).encode(given, needs) for t in row]


def call_of(given):
    return {n: given[n] for n in ("pixel_values", "image_sizes", "image_grid_thw") if n in given}


@pytest.mark.parametrize("layout", ["one", "ragged"])
@pytest.mark.parametrize("family", FAMILIES)
def test_projected_is_what_the_model_reads(family, layout, models, inputs):
    model = models(family)
    given = inputs(model, layout)
    pooled = model.model.get_image_features(**call_of(given), return_dict=True).pooler_output
    tokens = encoded(model, given)
    assert len(tokens) == len(pooled)
    for image, rows in zip(tokens, pooled, strict=True):
        assert torch.equal(image.projected, rows)
        real = torch.ones(image.count, dtype=torch.bool) if image.tile is None else image.tile >= 0
        torch.testing.assert_close(image.project(image.features)[real], rows[real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(image.mlp(image.features)[real], rows[real], atol=1e-5, rtol=1e-5)
        if image.grid is not None:
            assert image.grid[0] * image.grid[1] == image.count


@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_one_vision_pass_for_all_needs(family, models, inputs):
    model = models(family)
    vision_model = model.model.visual if family == "qwen2_5_vl" else model.model.vision_tower
    calls = []
    handle = vision_model.register_forward_hook(lambda *_: calls.append(1))
    encoded(model, inputs(model, "ragged"), NEEDS | {"resize", "text"})
    handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_only_needed_fields_are_captured(family, models, inputs):
    (image,) = encoded(models(family), inputs(models(family), "one"), frozenset())
    assert not any(image.has(need) for need in NEEDS | {"resize", "text"})


@pytest.mark.parametrize("family", CLIP)
def test_attention_and_keys_equal_an_eager_encoder(family, models, inputs):
    model = models(family, "eager")
    given = inputs(model, "one")
    (image,) = encoded(models(family), given)
    vision_model, pixels = model.model.vision_tower, given["pixel_values"].flatten(0, -4)
    with torch.no_grad():
        out = vision_model(pixels, output_attentions=True, output_hidden_states=True)
    attention, hidden = out.attentions[-2], out.hidden_states[-2]
    rows = slice(None)
    if family == "llava_next":
        (source,) = adapter_for(model).sources(given["image_sizes"], attention.shape[-1] - 1)
        rows = source[source >= 0]
        assert (image.cls_attention[source < 0] == 0).all()
    real = slice(None) if image.tile is None else image.tile >= 0
    cls = attention[:, :, 0, 1:].mean(1).flatten()[rows]
    received = attention.mean((1, 2))[:, 1:].flatten()[rows]
    torch.testing.assert_close(image.cls_attention[real], cls, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(image.received_attention[real], received, atol=1e-6, rtol=1e-5)
    layer = vision_model.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-3])).unflatten(-1, (4, 8)).mean(2)
    torch.testing.assert_close(image.keys[real], keys[:, 1:].flatten(0, 1)[rows], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(image.cls_key, keys[0, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(image.cls, hidden[0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", CLIP)
def test_hidden_states_and_replay(family, models, inputs):
    model = models(family)
    given = inputs(model, "one")
    (image,) = encoded(model, given)
    vision_model, pixels = model.model.vision_tower, given["pixel_values"].flatten(0, -4)
    with torch.no_grad():
        out = vision_model(pixels, output_hidden_states=True)
        final = out.hidden_states[-2][:, 1:].flatten(0, 1)  # the projector reads layer 2 of 3
    rows = torch.arange(image.count)
    if family == "llava_next":
        (rows,) = adapter_for(model).sources(given["image_sizes"], 16)
    real = rows >= 0
    assert sorted(image.hidden) == [1, 2]
    torch.testing.assert_close(image.hidden[2][real], image.features[real])
    for layer, hidden in image.hidden.items():
        torch.testing.assert_close(hidden[real], out.hidden_states[layer][:, 1:].flatten(0, 1)[rows[real]])
        again = image.replay(layer, hidden.expand(2, 3, -1, -1))
        torch.testing.assert_close(again[1, 2][real], final[rows[real]], atol=1e-5, rtol=1e-4)
        assert (again[0, 0][~real] == 0).all()
    moved = image.hidden[1].clone()
    moved[3] *= -1
    change = (image.replay(1, moved) - image.replay(1, image.hidden[1])).norm(dim=-1)
    same_tile = torch.ones_like(real) if image.tile is None else image.tile == 0
    assert (change[same_tile] > 1e-5).all()  # attention carries it to all patches of its tile, and no further
    assert (change[~same_tile] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_feature_layers_sensitivity_is_the_projectors(family, models, inputs):
    """Measured where the language model reads it, the last layer of the path is the projector itself."""
    model = models(family)
    (image,) = encoded(model, inputs(model, "one"))
    last = max(image.hidden)
    own = get("zoo", n_directions=8).score(image, torch.Generator().manual_seed(0))
    proxy = get("zoo", n_directions=8, layer=last).score(image, torch.Generator().manual_seed(0))
    real = slice(None) if image.tile is None else image.tile >= 0
    torch.testing.assert_close(proxy[real], own[real], atol=1e-4, rtol=1e-3)
    with pytest.raises(
        InvalidValueError, match=f"layer {last + 1} of selector zoo: the projector reads encoder layer {last}"
    ):
        get("zoo", layer=last + 1).select(image, 3, torch.Generator())
    with pytest.raises(InvalidValueError, match=f"layer {last} of selector zoo with response=features"):
        get("zoo", layer=last, response="features").select(image, 3, torch.Generator())


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_resizing_to_the_same_grid_changes_nothing(family, models, inputs):
    model = models(family)
    (image,) = encoded(model, inputs(model, "one"), frozenset({"resize"}))
    torch.testing.assert_close(image.pixels_encoder(image.grid), image.projected, atol=1e-4, rtol=1e-4)
    rows, columns = image.grid
    smaller = image.pixels_encoder((rows - 1, columns - 1))
    assert smaller.shape == ((rows - 1) * (columns - 1), image.projected.shape[1])
    assert get("resize").select(image, "50%", torch.Generator()).kept_tokens <= image.count / 2


def test_projector_weights_are_made_once_and_again_when_they_change(models, inputs):
    model = models("llava")
    adapter = adapter_for(model)
    first = adapter.weights.mlp()
    assert adapter.weights.mlp() is first
    weight = model.model.multi_modal_projector.linear_1.weight
    with torch.no_grad():
        weight.mul_(2)
        assert adapter.weights.mlp() is not first
        weight.div_(2)
    half = adapter_for(models("llava", dtype=torch.bfloat16)).weights.mlp()
    assert half.w1.dtype == torch.float32


@pytest.fixture(scope="module")
def real_next():
    """Adapter of the real LLaVA-NeXT geometry, without weights."""
    from transformers import LlavaNextForConditionalGeneration

    config = architecture("llava-hf/llava-v1.6-vicuna-7b-hf")
    config.text_config.num_hidden_layers = 1
    with torch.device("meta"):
        return adapter_for(LlavaNextForConditionalGeneration(config))


class TestNext:
    """Tiles, cropping and newlines of LLaVA-NeXT."""

    @pytest.mark.parametrize(
        "size", [(56, 56), (100, 60), (60, 100), (56, 150), (150, 56), (112, 112), (33, 31), (200, 37)]
    )
    def test_tokens_are_in_the_order_of_their_sources(self, size, models):
        """Projecting the features of a row gives that row; newlines are the learned one."""
        from zoo_exp.models.tiny import tiny_inputs

        model = models("llava_next")
        given = tiny_inputs(model, [[size]])
        (image,) = encoded(model, given, frozenset({"features"}))
        (source,) = adapter_for(model).sources(given["image_sizes"], 16)
        flat = model.model.multi_modal_projector(image.features)
        newline = image.tile == -1
        torch.testing.assert_close(flat[~newline], image.projected[~newline], atol=1e-5, rtol=1e-5)
        assert torch.equal(image.projected[newline], model.model.image_newline.expand(int(newline.sum()), -1))
        assert torch.equal(image.tile[~newline], source[~newline] // 16)
        assert torch.equal(image.tile[:16], torch.zeros(16, dtype=torch.int64))
        assert source[source >= 0].unique().numel() == (source >= 0).sum()

    @pytest.mark.parametrize(
        ("size", "tokens", "newlines", "tiles"),
        [
            ((672, 672), 2928, 48, 5),
            ((480, 640), 2340, 36, 5),
            ((333, 500), 1464, 24, 3),
            ((336, 336), 1176, 24, 3),
            ((900, 300), 2376, 72, 4),
        ],
    )
    def test_real_geometry(self, size, tokens, newlines, tiles, real_next):
        """Token counts of real image sizes."""
        (source,) = real_next.sources(torch.tensor([size]), 576)
        assert (len(source), int((source < 0).sum())) == (tokens, newlines)
        assert (source[source >= 0] // 576).unique().numel() == tiles


class TestQwen:
    """Window order and rotary attention of Qwen2.5-VL's vision encoder."""

    def test_received_attention_and_keys(self, models, inputs):
        """Against full attention per image, with the encoder's own rotary tables."""
        model = models("qwen2_5_vl")
        given = inputs(model, "two images")
        images = encoded(model, given)
        visual = model.model.visual
        block = visual.blocks[1]
        noted = {}
        handle = block.attn.register_forward_hook(
            lambda m, a, k, o: noted.update(x=k.get("hidden_states", a[0] if a else None), **k),
            with_kwargs=True,
        )
        model.model.get_image_features(**call_of(given), return_dict=True)
        handle.remove()
        qkv = block.attn.qkv(noted["x"]).view(-1, 3, 4, 8)
        cos, sin = (t[:, None] for t in noted["position_embeddings"])

        def rotated(x):
            return x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin

        query, key = rotated(qkv[:, 0]), rotated(qkv[:, 1])
        start = 0
        order = adapter_for(model).vision_encoder.language_order(given["image_grid_thw"])
        for image in images:
            rows = (order[start : start + image.count, None] * 4 + torch.arange(4)).flatten()
            start += image.count
            weights = torch.einsum("qhd,khd->hqk", query[rows], key[rows]) / 8**0.5
            received = weights.softmax(-1).mean((0, 1)).view(-1, 4).mean(1)
            torch.testing.assert_close(image.received_attention, received, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(
                image.keys, key[rows].view(-1, 4, 4, 8).mean((1, 2)), atol=1e-5, rtol=1e-4
            )

    def test_the_last_block_is_the_projectors_input(self, models, inputs):
        """Hidden states are in the same order as features."""
        model = models("qwen2_5_vl")
        for image in encoded(model, inputs(model, "two images")):
            torch.testing.assert_close(image.hidden[3], image.features)

    def test_replay_is_the_rest_of_the_encoder(self, models, inputs):
        """From every block, for every image of a batch, in copies, to the merger's input."""
        model = models("qwen2_5_vl")
        images = encoded(model, inputs(model, "ragged"))
        assert len(images) == 4
        for image in images:
            final = image.features
            for layer, hidden in image.hidden.items():
                again = image.replay(layer, hidden.expand(2, 3, -1, -1))
                torch.testing.assert_close(again, final.expand(2, 3, -1, -1), atol=1e-4, rtol=1e-4)
            copies = torch.stack([image.hidden[1], image.hidden[1].flip(-1)])
            together = image.replay(1, copies)
            for one, alone in zip(together, copies, strict=True):
                torch.testing.assert_close(one, image.replay(1, alone), atol=1e-4, rtol=1e-4)

    def test_replay_carries_a_change_as_far_as_attention_does(self, models, inputs):
        """Of the three blocks, the second sees the whole image, the third a window of 2 x 2 tokens."""
        model = models("qwen2_5_vl")
        (image,) = encoded(model, inputs(model, "one"))  # 2 x 3 tokens: two windows
        windows = torch.tensor([0, 0, 1, 0, 0, 1])
        for layer, reached in ((1, torch.ones(6, dtype=torch.bool)), (2, windows == 0)):
            moved = image.hidden[layer].clone()
            moved[3] *= -1
            change = (image.replay(layer, moved) - image.replay(layer, image.hidden[layer])).norm(dim=-1)
            assert torch.equal(change > 1e-3, reached)

    @pytest.mark.parametrize("response", ["projector", "features"])
    def test_sensitivity_of_a_block(self, response, models, inputs):
        """What replay is for: zoo's option `layer`, against finite differences of the model's own blocks."""
        model = models("qwen2_5_vl", dtype=torch.float64)
        rule = get("zoo", layer=2, response=response, n_directions=4, fusion="none")
        (image,) = encoded(model, inputs(model, "one"), rule.needs)
        found = rule.score(image, torch.Generator().manual_seed(0))
        u = draw_directions(
            4, image.hidden[2].shape[1], torch.Generator().manual_seed(0), torch.device("cpu")
        )
        slow = torch.zeros(image.count, dtype=torch.float64)
        for direction in u.double():
            up, down = (image.replay(2, image.hidden[2] + h * direction) for h in (0.01, -0.01))
            if response == "projector":
                up, down = (model.model.visual.merger(x.view(-1, 32)) for x in (up, down))
            slow += (up - down).norm(dim=-1) / 0.02 / 4
        torch.testing.assert_close(found.double(), slow, atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("layout", ["one", "two images"])
    def test_closed_form_is_the_mergers_own_jacobian(self, layout, inputs):
        """The module of the model itself, from rows in window order: activation, epsilon, norm and order."""
        model = tiny_model("qwen2_5_vl", dtype=torch.float64)
        visual = model.model.visual
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():  # a new model's norm is all ones and its biases are zero
            visual.merger.ln_q.weight.copy_(torch.rand(32, generator=draw) + 0.5)
            for layer in (visual.merger.mlp[0], visual.merger.mlp[2]):
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=draw))
        given = inputs(model, layout)
        noted = {}
        handle = visual.merger.register_forward_hook(lambda _, args, out: noted.update(x=args[0], out=out))
        images = encoded(model, given, frozenset({"features", "projector"}))
        handle.remove()
        order = adapter_for(model).vision_encoder.language_order(given["image_grid_thw"])
        assert order.tolist() != list(range(len(order)))
        # Small norms too, where the epsilon counts.
        for scale in (1.0, 1e-3):
            found = torch.cat([closed_form(image.features * scale, image.mlp) for image in images])
            slow = [
                torch.func.jacrev(visual.merger)(noted["x"].view(len(order), 4, 32)[place] * scale).norm()
                for place in order
            ]
            torch.testing.assert_close(found.double(), torch.stack(slow) / 128**0.5, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
        ("llava-hf/llava-1.5-13b-hf", 13_351_494_656),
        ("llava-hf/llava-v1.6-vicuna-7b-hf", 7_063_431_168),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
    ],
)
def test_known_architectures_have_the_published_size(name, total):
    import transformers

    model_class = known_architectures()[name].model_class
    with torch.device("meta"):
        model = getattr(transformers, model_class)(architecture(name))
    assert sum(p.numel() for p in model.parameters()) == total
    adapter_for(model)

# ruff: noqa: D102 - the names say what the methods do
"""Fields for other methods: attention of other layers, words of the question, CLIP's embeddings."""

import pytest
import torch

import zoo_exp
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.models.clip_heads import ClipHeads
from zoo_exp.models.families import adapter_for, architecture
from zoo_exp.models.loading import LoadedModel, load_model
from zoo_exp.models.tiny import tiny_inputs
from zoo_exp.selectors import get
from zoo_exp.selectors.hiprune import raster_width

CLIP = ("llava", "llava_next")
FAMILIES = (*CLIP, "qwen2_5_vl")


def encoded(model, given, needs):
    return [t for row in adapter_for(model).encode(given, needs) for t in row]


@pytest.mark.parametrize("family", CLIP)
def test_attention_of_other_layers_equals_an_eager_encoder(family, models, inputs):
    model = models(family, "eager")
    given = inputs(model, "one")
    needs = frozenset({"object_attention", "layer_attention", "received_attention", "cls_attention"})
    (image,) = encoded(models(family), given, needs)
    with torch.no_grad():
        out = model.model.vision_tower(given["pixel_values"].flatten(0, -4), output_attentions=True)
    rows = torch.arange(image.count)
    if family == "llava_next":
        (rows,) = adapter_for(model).sources(given["image_sizes"], out.attentions[0].shape[-1] - 1)
    real = rows >= 0
    for layer in (1, 2, 3):
        received = out.attentions[layer - 1].mean((1, 2))[:, 1:].flatten()[rows[real]]
        ours = image.layer_attention(layer)
        torch.testing.assert_close(ours[real], received, atol=1e-6, rtol=1e-5)
        assert (ours[~real] == 0).all()
    assert torch.equal(image.object_attention, image.layer_attention(1))  # 9 of 24 is 1 of 3
    assert torch.equal(image.received_attention, image.layer_attention(2))
    assert image.attention_heads == 4
    with pytest.raises(InvalidValueError, match="encoder layer 4: the vision encoder has 3, give 1 to 3"):
        get("hiprune", object_layer=4).select(image, 4, torch.Generator())


def test_attention_of_other_blocks_on_qwen(models, inputs):
    model = models("qwen2_5_vl")
    images = encoded(
        model,
        inputs(model, "ragged"),
        frozenset({"object_attention", "layer_attention", "received_attention"}),
    )
    for image in images:
        assert torch.equal(image.object_attention, image.layer_attention(2))  # 16 of 32 is 2 of 3
        assert torch.equal(image.received_attention, image.layer_attention(2))  # block 1, from 0, sees all
        assert not torch.equal(image.layer_attention(1), image.layer_attention(2))
        for layer in (1, 2, 3):
            assert image.layer_attention(layer).sum() == pytest.approx(0.25, rel=1e-4)  # mean over 4 patches


def test_every_tile_has_its_own_raster(models, inputs):
    """HiPrune's neighbours: the width of a tile is the length of its first run in the packed sequence."""
    model = models("llava_next")
    (image,) = encoded(model, inputs(model, "one"), frozenset({"object_attention", "received_attention"}))
    (source,) = adapter_for(model).sources(inputs(model, "one")["image_sizes"], 16)
    for number in image.tile.unique().tolist():
        if number >= 0:
            members = (image.tile == number).nonzero().flatten()
            columns = (source[members] % 4).unique()
            assert raster_width(image, members) == len(columns)
            part = image.subset(members)
            assert raster_width(part, torch.arange(part.count)) == len(columns)


class Words:
    """A tokenizer of words: the id of a word is its length."""

    all_special_ids = ()

    def decode(self, ids):
        return " ".join("the" if i == 3 else "w" * i for i in ids)

    def convert_ids_to_tokens(self, ids):
        return ["\u2581" + "w" * i for i in ids]

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [len(word) for word in text.split()]}


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_the_question(family, models, inputs):
    """Keywords leave "the" out; all words begin with "Question:". Each is embedded by itself."""
    model = models(family)
    given = inputs(model, "one")
    given["input_ids"][0, -3:] = torch.tensor([5, 3, 7])
    (image,) = [t for row in adapter_for(model, Words()).encode(given, frozenset({"text"})) for t in row]
    embed = model.get_input_embeddings()
    message = given["input_ids"][0][(given["input_ids"][0] == 97).nonzero()[-1] + 1 :].tolist()
    kept = [i for i in message if i != 3]
    assert torch.equal(image.question_words["keywords"], embed(torch.tensor(kept)))
    assert torch.equal(image.question_words["all"], embed(torch.tensor([9, *message])))
    assert image.family == family


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny full CLIP of the size of the tiny models' encoder, with a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "bos_token_id": 48, "eos_token_id": 49}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": 56, "patch_size": 14}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    words = {f"w{i}": i for i in range(48)} | {"<s>": 48, "</s>": 49}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 48), ("</s>", 49)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    return folder


def test_clip_embeddings_are_clips_own(clip_folder, models, inputs):
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(clip_folder).eval()
    heads = ClipHeads.load(str(clip_folder))
    short = heads.text("w3 w4\nAnswer the question using a single word or phrase.")
    given = {"input_ids": torch.tensor([[48, 3, 4, 49]])}
    with torch.no_grad():
        expected = clip.text_projection(clip.text_model(**given).last_hidden_state[:, -1])
    torch.testing.assert_close(short, expected, atol=1e-5, rtol=1e-4)
    long = heads.text(" ".join(f"w{i % 40 + 1}" for i in range(100)))
    assert long.shape == (2, 12)  # 102 tokens are two segments of 77
    assert not torch.allclose(long[0], long[1])

    for family in CLIP:
        model = models(family)
        adapter = adapter_for(model, Words())
        adapter.clip = heads
        heads.check(model.config.vision_config)
        given = inputs(model, "one")
        (image,) = [t for row in adapter.encode(given, frozenset({"clip"})) for t in row]
        pixels = given["pixel_values"].flatten(0, -4)
        with torch.no_grad():
            hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            expected = clip.visual_projection(clip.vision_model.post_layernorm(hidden)).flatten(0, 1)
        rows = torch.arange(image.count)
        if family == "llava_next":
            (rows,) = adapter.sources(given["image_sizes"], 16)
        real = rows >= 0
        torch.testing.assert_close(image.clip_image[real], expected[rows[real]], atol=1e-5, rtol=1e-4)
        assert get("cdpruner", relevance="clip").select(image, 5, torch.Generator()).kept_tokens == 5


def test_a_loaded_model_hands_its_clip_on(clip_folder, models):
    """`pruned` makes an adapter of its own for a model of `load_model`."""
    model = models("llava")
    adapter = adapter_for(model, Words())
    adapter.clip = ClipHeads.load(str(clip_folder))
    loaded = LoadedModel(model, Words(), adapter, "tiny", adapter.n_visual)
    with zoo_exp.pruned(loaded, "cdpruner", 5, relevance="clip") as pruning:
        model.generate(**tiny_inputs(model), max_new_tokens=1, do_sample=False)
        assert pruning.kept_tokens == [5]
    with pytest.raises(InvalidValueError, match=r"clip '.*': its hidden_size is 32, the vision encoder's"):
        load_model("embedded", clip=clip_folder)


def test_a_clip_that_does_not_fit_is_named(clip_folder, models, tmp_path):
    heads = ClipHeads.load(str(clip_folder))
    with pytest.raises(InvalidValueError, match="the vision encoder of this model is a qwen2_5_vl"):
        heads.check(models("qwen2_5_vl").config.vision_config, "x")
    with pytest.raises(InvalidValueError, match="its hidden_size is 32, the vision encoder's 1024"):
        heads.check(architecture("llava-hf/llava-1.5-7b-hf").vision_config, "x")
    with pytest.raises(MissingFileError, match=r"clip '.*' cannot be read"):
        ClipHeads.load(str(tmp_path))
    (image,) = encoded(models("llava"), tiny_inputs(models("llava")), frozenset({"clip"}))
    with pytest.raises(
        InvalidValueError, match=r"relevance=clip needs 'clip'.*load_model\(\.\.\., clip=PATH\)"
    ):
        get("cdpruner", relevance="clip").select(image, 5, torch.Generator())

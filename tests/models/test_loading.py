"""`load_model` and its errors."""

import json
import shutil
from importlib.metadata import EntryPoint

import pytest
import torch
import transformers

import zoo_exp
from zoo_exp import presets, registry
from zoo_exp.embedded.model import make_model, make_processor
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.models import loading
from zoo_exp.models.families import FAMILIES
from zoo_exp.models.llava import LlavaAdapter
from zoo_exp.models.question import question_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with an untrained embedded model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model(seed=3).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def copy_of(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    return folder


def test_a_saved_model_comes_back(checkpoint, recwarn, capfd):
    loaded = zoo_exp.load_model(checkpoint)
    assert (loaded.name, loaded.n_visual, loaded.adapter.family) == (str(checkpoint), 144, "llava")
    assert not loaded.model.training
    assert loaded.processor.tokenizer.padding_side == "left"
    for name, weight in make_model(seed=3).state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name])
    assert capfd.readouterr() == ("", "")


def test_dtype_backend_and_layers(checkpoint):
    loaded = zoo_exp.load_model(checkpoint, dtype="bfloat16", attention="eager", layers=2, device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config.text_config._attn_implementation == "eager"
    assert len(loaded.adapter.layers) == 2
    whole = make_model(seed=3).model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(loaded.adapter.layers[1].mlp.up_proj.weight, whole.bfloat16())


def test_random_weights_need_no_checkpoint_and_obey_the_seed():
    name = "llava-hf/llava-1.5-7b-hf"
    with torch.device("meta"):
        loaded = zoo_exp.load_model(name, weights="random", layers=1, dtype="bfloat16")
    assert (loaded.n_visual, loaded.processor, len(loaded.adapter.layers)) == (576, None, 1)


@pytest.mark.parametrize("name", ["llava15_7b", "llava15_13b", "llava_next_7b", "qwen25_vl_7b"])
def test_names_of_model_configurations_work(name):
    stored = presets.find("model", name)
    with torch.device("meta"):
        loaded = zoo_exp.load_model(name, weights="random", layers=1)
    assert loaded.model.dtype == getattr(torch, stored["dtype"])
    assert (loaded.name, loaded.adapter.family) == (name, stored["family"])
    with torch.device("meta"):
        other = zoo_exp.load_model(name, weights="random", layers=1, dtype="float32", attention="eager")
    assert other.model.dtype == torch.float32  # what is given holds
    assert other.model.config.text_config._attn_implementation == "eager"


def test_a_folder_takes_precedence_over_a_configuration_of_its_name(checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint, tmp_path / "llava15_7b")
    monkeypatch.chdir(tmp_path)
    assert zoo_exp.load_model("llava15_7b").n_visual == 144


def test_a_family_from_elsewhere_is_found_by_its_model_type(checkpoint, monkeypatch):
    point = EntryPoint("llava", "elsewhere:Adapter", "zoo_exp.families")

    class Adapter(LlavaAdapter):
        """A user's adapter."""

    monkeypatch.setattr(FAMILIES, "_added", {"llava": Adapter})
    assert type(zoo_exp.load_model(checkpoint).adapter) is Adapter
    monkeypatch.undo()
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    fresh = registry.Registry("model type", "zoo_exp.families", FAMILIES.built_in)
    with pytest.raises(
        InvalidValueError, match=r"the installed model type 'llava' .* has the name of zoo_exp"
    ):
        fresh.names()


def test_every_family_declares_its_name_and_classes():
    for name in FAMILIES.names():
        adapter = FAMILIES.load(name)
        assert adapter.family == name
        assert getattr(transformers, adapter.model_class).config_class.__name__ == adapter.config_class
        assert adapter.architecture(next(iter(adapter.ARCHITECTURES))).model_type == name


def test_seeds_of_random_weights(checkpoint):
    state = torch.random.get_rng_state()
    first, same, other = (
        zoo_exp.load_model(checkpoint, weights="random", seed=seed).model.lm_head.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_missing_name():
    with pytest.raises(MissingFileError, match=r"no checkpoint of that name.*one of embedded, "):
        zoo_exp.load_model("./no/such/folder")


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        zoo_exp.load_model(tmp_path)


def test_another_family(copy_of):
    text = json.loads((copy_of / "config.json").read_text())
    (copy_of / "config.json").write_text(json.dumps({**text, "model_type": "blip-2"}))
    with pytest.raises(
        InvalidValueError, match=r"'blip-2' cannot be pruned: it is a Q-Former model.*docs/models.md"
    ):
        zoo_exp.load_model(copy_of)


def test_a_damaged_configuration(copy_of):
    (copy_of / "config.json").write_text("{")
    with pytest.raises(MissingFileError, match="can be read"):
        zoo_exp.load_model(copy_of)


def test_truncated_weights(copy_of):
    weights = copy_of / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(MissingFileError, match=r"model\.safetensors is damaged or cut short"):
        zoo_exp.load_model(copy_of)


def test_weights_of_another_shape(copy_of):
    text = json.loads((copy_of / "config.json").read_text())
    text["text_config"]["hidden_size"] = 64
    (copy_of / "config.json").write_text(json.dumps(text))
    with pytest.raises(MissingFileError, match="do not fit"):
        zoo_exp.load_model(copy_of)


def test_weights_with_a_tensor_missing(copy_of):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy_of / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("linear_1.weight"))]
    save_file(tensors, copy_of / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingFileError, match=r"lacks .*linear_1\.weight"):
        zoo_exp.load_model(copy_of)


def test_a_missing_shard(copy_of):
    (copy_of / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (copy_of / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingFileError, match=r"model-00001-of-00001\.safetensors is missing"):
        zoo_exp.load_model(copy_of)
    (copy_of / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(MissingFileError, match=r"index\.json is damaged"):
        zoo_exp.load_model(copy_of)


def test_pickled_weights(copy_of):
    (copy_of / "model.safetensors").rename(copy_of / "pytorch_model.bin")
    with pytest.raises(InvalidValueError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        zoo_exp.load_model(copy_of)
    (copy_of / "pytorch_model.bin").unlink()
    with pytest.raises(MissingFileError, match=r"no model\.safetensors"):
        zoo_exp.load_model(copy_of)


def test_code_of_a_checkpoint_is_not_run(copy_of):
    text = json.loads((copy_of / "config.json").read_text())
    mine = {**text, "auto_map": {"AutoConfig": "evil.Config"}}
    (copy_of / "config.json").write_text(json.dumps(mine))
    (copy_of / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(InvalidValueError, match="trust_remote_code=True"):
        zoo_exp.load_model(copy_of)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json"])
def test_code_of_a_processor_is_not_run(name, copy_of):
    """Its tokenizer or processor, while config.json is plain."""
    kind = "AutoTokenizer" if name.startswith("tokenizer") else "AutoProcessor"
    reference = ["evil.Evil", None] if kind == "AutoTokenizer" else "evil.Evil"
    text = json.loads((copy_of / name).read_text())
    (copy_of / name).write_text(json.dumps({**text, "auto_map": {kind: reference}}))
    (copy_of / "evil.py").write_text("raise SystemExit('was run')")
    try:
        assert type(zoo_exp.load_model(copy_of).processor).__module__.startswith("transformers.")
    except MissingFileError as error:
        assert "processor cannot be loaded" in str(error)  # noqa: PT017 - either is right, running it is not


def test_code_of_a_checkpoint_is_run_when_asked_for(copy_of, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(
        transformers.LlavaConfig, "_auto_class", None
    )  # loading such code sets it for all models
    text = json.loads((copy_of / "config.json").read_text())
    (copy_of / "config.json").write_text(json.dumps({**text, "auto_map": {"AutoConfig": "mine.Mine"}}))
    (copy_of / "mine.py").write_text("from transformers import LlavaConfig as Mine\n")
    assert zoo_exp.load_model(copy_of, trust_remote_code=True).adapter.family == "llava"


def test_pickled_weights_of_any_name_are_refused(copy_of):
    (copy_of / "model.safetensors").unlink()
    torch.save({}, copy_of / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(InvalidValueError, match=r"pytorch_model-00001-of-00002\.bin.*opening them runs code"):
        zoo_exp.load_model(copy_of)


def test_a_processor_that_needs_torchvision(copy_of, monkeypatch):
    """Transformers 5.17 reads the images of Idefics3 and others only with it."""

    def needs_it(*args, **kwargs):
        raise ImportError("AutoImageProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr(transformers.LlavaProcessor, "from_pretrained", needs_it)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(MissingFileError, match=r"processor cannot be loaded.*pip install torchvision"):
        zoo_exp.load_model(copy_of)


def test_a_missing_processor(copy_of):
    (copy_of / "tokenizer.json").unlink()
    with pytest.raises(MissingFileError, match=r"has no tokenizer\.json: copy it"):
        zoo_exp.load_model(copy_of)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float12"}, UnknownNameError, "Available: auto, bfloat16"),
        ({"weights": "some"}, UnknownNameError, "Available: pretrained, random"),
        ({"attention": "spda"}, UnknownNameError, "Did you mean 'sdpa'"),
        ({"layers": 0}, InvalidValueError, "the decoder has 4"),
        ({"layers": 9}, InvalidValueError, "the decoder has 4"),
        ({"device": "cpu", "device_map": "auto"}, InvalidValueError, "give one of them"),
        ({"device": "cuda:99"}, InvalidValueError, "device cuda:99"),
    ],
)
def test_bad_options(checkpoint, options, error, message):
    with pytest.raises(error, match=message):
        zoo_exp.load_model(checkpoint, **options)


def test_the_question_of_a_prompt(checkpoint):
    loaded = zoo_exp.load_model(checkpoint)
    processor = loaded.processor
    turn = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "Is there a red circle ?"}],
    }
    prompt = processor.apply_chat_template([turn], add_generation_prompt=True)
    ids = processor.tokenizer(prompt, return_tensors="pt")["input_ids"][0]
    found, words = question_of(processor).select(
        ids, torch.ones_like(ids), loaded.model.config.image_token_id
    )
    assert processor.tokenizer.convert_ids_to_tokens(found.tolist()) == [
        "Is",
        "there",
        "a",
        "red",
        "circle",
        "?",
    ]
    assert words.tolist() == [0, 1, 2, 3, 4, 5]
    padded = torch.cat([torch.zeros(3, dtype=ids.dtype), ids])
    mask = torch.cat([torch.zeros(3, dtype=ids.dtype), torch.ones_like(ids)])
    assert torch.equal(question_of(processor).select(padded, mask, 4)[0], found)


class Pieces:
    """A tokenizer that cuts words into pieces."""

    all_special_ids = (0,)
    pieces = ("<s>", "\u2581What", "\u2581col", "or", "\u2581is", "\u2581it", "?")

    def convert_ids_to_tokens(self, ids):
        """The pieces themselves."""
        return [self.pieces[i] for i in ids]


def test_pieces_of_a_word_share_its_number():
    question = question_of(Pieces())
    ids = torch.tensor([0, 9, 9, 1, 2, 3, 4, 5, 6])
    found, words = question.select(ids, torch.ones_like(ids), 9)
    assert found.tolist() == [1, 2, 3, 4, 5, 6]
    assert words.tolist() == [0, 1, 1, 2, 3, 3]


def test_text_before_the_image_counts_where_nothing_follows():
    ids = torch.tensor([0, 1, 2, 9, 9])
    assert question_of(Pieces()).select(ids, torch.ones_like(ids), 9)[0].tolist() == [1, 2]
    assert question_of(None).select(ids, torch.ones_like(ids), 9)[1] is None

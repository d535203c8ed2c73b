"""Old, incomplete and half-downloaded snapshots: completed and said, or refused in one line that says what to do."""

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.models import loading
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import load_model
from zoo_exp.models.processor_gaps import check_usable, fill_gaps
from zoo_exp.rehearsal import slim

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0\nsize 5\n"
LLAVA = ("llava15_7b", "llava_next_7b")
ALL = (*LLAVA, "qwen25_vl_7b")
FIELDS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Slim checkpoints, each with one tensor in the place of its weights: they are refused before that is missed."""
    root = tmp_path_factory.mktemp("whole")
    for name in ALL:
        folder = slim.make(name, root / name, weights=False)
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return root


@pytest.fixture
def copy(whole, tmp_path):
    def make(name):
        return shutil.copytree(whole / name, tmp_path / name)

    return make


def drop(folder, *files):
    for file in files:
        (folder / file).unlink()


def change(file, **keys):
    """Set keys of a JSON file; an ellipsis removes one."""
    content = json.loads(file.read_text())
    content.update(keys)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def filled(folder):
    """The processor of a folder, completed as `load_model` does; and what was set."""
    config = transformers.AutoConfig.from_pretrained(folder)
    processor = loading.processor_of(str(folder), "x", config, {}, needed=True)
    return processor, "; ".join(fill_gaps(processor, config))


def prompt(folder):
    """The text of a prompt with its number of placeholders, and what was set."""
    processor, said = filled(folder)
    inputs = chat_inputs(processor, [user_turn([Image.new("RGB", (640, 427)), "What is it?"])])
    ids = inputs["input_ids"][0]
    mark = processor.image_token_id
    return processor.tokenizer.decode(ids[ids != mark]), int((ids == mark).sum()), said


@pytest.mark.parametrize("name", ALL)
def test_a_missing_chat_template_is_the_familys(name, copy):
    folder = copy(name)
    expected = prompt(folder)
    assert expected[1:] == ({"llava15_7b": 576, "llava_next_7b": 2144, "qwen25_vl_7b": 345}[name], "")
    drop(folder, "chat_template.json")
    assert prompt(folder) == (*expected[:2], "the chat template of the published checkpoints")
    check_usable(filled(folder)[0], name)


@pytest.mark.parametrize("protocol", ["hf", "llava"])
def test_what_was_set_is_said_once(protocol, copy, caplog):
    folder = copy("llava15_7b")
    drop(folder, "chat_template.json", "processor_config.json")
    load_model(folder, weights="random", layers=1, protocol=protocol)
    (record,) = caplog.records
    assert "its processor's files are incomplete; set: patch_size=14 from config.json" in record.getMessage()
    assert ("chat template" in record.getMessage()) == (protocol == "hf")  # LLaVA's own code has one anyway


@pytest.mark.parametrize("name", LLAVA)
@pytest.mark.parametrize(
    "edit", ["file", *FIELDS, *(f"{field} null" for field in FIELDS), "image_token", "wrong"]
)
def test_a_processor_without_some_keys_takes_them_from_the_model(name, edit, copy):
    folder = copy(name)
    file = folder / "processor_config.json"
    field, _, null = edit.partition(" ")
    if edit == "file":
        drop(folder, file.name)
    elif edit == "wrong":
        change(file, patch_size=16, num_additional_image_tokens=0)
    else:
        change(file, **{field: None if null else ...})
    text, tokens, said = prompt(folder)
    assert text.endswith("What is it? ASSISTANT:")
    assert tokens == (576 if name == "llava15_7b" else 2144)
    wanted = {"file": FIELDS, "wrong": (FIELDS[0], FIELDS[2]), "image_token": ()}.get(edit, (field,))
    for field in FIELDS:
        assert (f"{field}=" in said) == (field in wanted)


@pytest.mark.parametrize("name", ALL)
def test_no_padding_token(name, copy):
    folder = copy(name)
    change(folder / "tokenizer_config.json", pad_token=...)
    processor, said = filled(folder)
    check_usable(processor, name)
    assert processor.tokenizer.pad_token == processor.tokenizer.eos_token
    assert said == f"the padding token {processor.tokenizer.eos_token}"


def test_a_template_that_is_not_known_is_refused(copy):
    """LLaVA-NeXT stands on several language models with different conversations."""
    folder = copy("llava_next_7b")
    drop(folder, "chat_template.json")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "vocab_size": 64_064})
    processor, said = filled(folder)
    assert said == ""
    with pytest.raises(InvalidValueError, match=r"no chat template.*put the chat_template\.jinja"):
        check_usable(processor, "next")


def test_a_processor_that_fails_is_refused_before_the_first_question(copy):
    processor = filled(copy("llava15_7b"))[0]
    processor.patch_size = None  # as in other families, for which nothing is filled in
    with pytest.raises(InvalidValueError, match=r"^model 'x': .*Keys or files of its processor are missing"):
        check_usable(processor, "x")
    processor.tokenizer.pad_token = None
    with pytest.raises(InvalidValueError, match="neither a padding nor an end-of-sequence token"):
        check_usable(processor, "x")


REFUSED = {
    "tokenizer.json": (MissingFileError, "has no tokenizer.json: copy it from the model's page on the hub"),
    "preprocessor_config.json": (MissingFileError, "has no preprocessor_config.json: copy it"),
    "config.json": (MissingFileError, "has no config.json: give the folder of a checkpoint"),
    "model.safetensors": (MissingFileError, "has no model.safetensors"),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("file", REFUSED)
def test_missing_files(name, file, copy):
    folder = copy(name)
    drop(folder, file)
    said(folder, *REFUSED[file])


@pytest.mark.parametrize("name", ALL)
def test_pointers_of_git_lfs(name, copy):
    folder = copy(name)
    for file in (
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "chat_template.json",
        "tokenizer.model",
    ):
        before = (folder / file).read_bytes() if (folder / file).exists() else None
        (folder / file).write_text(POINTER)
        said(
            folder,
            MissingFileError,
            f"{file} is a git-LFS pointer, not the file itself: run `git lfs pull` in",
        )
        drop(folder, file)
        if before is not None:
            (folder / file).write_bytes(before)


@pytest.mark.parametrize("base", ['"llava-hf/llava-1.5-7b-hf"', "3", '"a\\nb"', None])
def test_an_adapter_alone(base, tmp_path):
    text = "{" if base is None else f'{{"peft_type": "LORA", "base_model_name_or_path": {base}}}'
    (tmp_path / "adapter_config.json").write_text(text)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    known = " of llava-hf/llava-1.5-7b-hf" if base and "llava" in base else ""
    said(tmp_path, InvalidValueError, f"is a LoRA or other PEFT adapter{known}, not a whole model. Merge it")


def test_a_tokenizer_that_cannot_be_converted(copy):
    """Without tokenizer.json, transformers speaks of tiktoken."""
    folder = copy("llava15_7b")
    drop(folder, "tokenizer.json")
    (folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(
        MissingFileError, match=r"has no tokenizer\.json, and none can be made of its other files"
    ):
        filled(folder)
    drop(folder, "tokenizer.model")
    (folder / "vocab.json").write_text("{}")
    said(folder, MissingFileError, "has no merges.txt (nor tokenizer.json)")


def said(folder, kind, words):
    with pytest.raises(ZooExpError) as caught:
        load_model(folder)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

"""Checkpoints and texts are untrusted: malformed settings, endless templates, NaN weights, placeholders in texts."""

import contextlib
import json
import random
import shutil
from types import SimpleNamespace

import pytest
import torch
from cpu_clock import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.embedded.model import make_model, make_processor
from zoo_exp.embedded.world2.train import processor_for
from zoo_exp.errors import InvalidValueError, UnknownNameError, ZooExpError
from zoo_exp.models import chat, loading
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.chat import as_text, chat_inputs, check_template, placeholders, user_turn
from zoo_exp.models.logits_check import LogitsCheck
from zoo_exp.models.qwen2_5_vl import qwen_processor_class

IMAGE = Image.new("RGB", (96, 96), (90, 120, 30))


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


def refused(folder, **options):
    """The message of the one line that refuses a checkpoint, "" if it is loaded; anything else fails."""
    start = cpu_seconds()
    message = ""
    try:
        zoo_exp.load_model(folder, **options)
    except ZooExpError as error:
        message = str(error)
    assert "\n" not in message
    assert cpu_seconds() - start < 30
    return message


def change(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


STRANGE = [None, "", "x", -1, 0, 10**12, 1.5, True, [], [None], {}, {"a": 1}, "\ud800", float("nan")]


def wrong_settings(content, generator):
    """The settings with one value, at any depth, replaced by a strange one, or left out."""
    changed = json.loads(json.dumps(content))
    place = changed
    while True:
        key = generator.choice(sorted(place))
        if isinstance(place[key], dict) and place[key] and generator.random() < 0.7:
            place = place[key]
            continue
        if generator.random() < 0.15:
            del place[key]
        else:
            place[key] = generator.choice(STRANGE)
        return changed


@pytest.mark.parametrize(
    "name", ["config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json"]
)
def test_settings_of_any_kind_are_loaded_or_refused_in_one_line(copy_of, name):
    file = copy_of / name
    content, generator = json.loads(file.read_text()), random.Random(name)
    messages = []
    for _ in range(25):
        file.write_text(json.dumps(wrong_settings(content, generator)))
        messages.append(refused(copy_of))
    assert any(messages)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json",
                                  "generation_config.json"])  # fmt: skip
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", "[" * 100_000, '{"a": ' * 5000, "\x00", "{}x"])
def test_settings_that_are_no_json_object_are_refused(copy_of, name, text):
    (copy_of / name).write_text(text)
    message = refused(copy_of)
    assert message
    if name != "config.json" and text not in ("[]", "null", "5"):
        assert f"{name} cannot be read" in message


def test_sizes_that_nobody_builds_are_refused_before_they_are_built(copy_of):
    for part, key in (("text_config", "num_hidden_layers"), ("vision_config", "num_hidden_layers")):
        content = json.loads((copy_of / "config.json").read_text())
        content[part][key] = 10**9
        (copy_of / "config.json").write_text(json.dumps(content))
        assert f"{key} 1000000000, but at most 4096 are built" in refused(copy_of)
        content[part][key] = 4
        (copy_of / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("method", ["magic", "", None, 5, ["bitsandbytes"]])
def test_an_unknown_quantization_is_refused_instead_of_skipped(copy_of, method):
    change(copy_of / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(UnknownNameError, match="unknown quantization method") as caught:
        zoo_exp.load_model(copy_of)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "hqq"])
def test_a_quantization_without_its_package_is_one_line(copy_of, method):
    change(
        copy_of / "config.json", quantization_config={"quant_method": method, "load_in_4bit": True, "bits": 4}
    )
    assert str(copy_of) in refused(copy_of)


def test_adapters_and_strange_tokenizers_are_not_ignored(copy_of):
    change(copy_of / "tokenizer_config.json", tokenizer_class="os.system")
    assert "tokenizer_class 'os.system', which is no name of a class" in refused(copy_of)
    (copy_of / "adapter_config.json").write_text("{}")
    assert "merge it with peft" in refused(copy_of)


def test_a_device_map_without_accelerate_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InvalidValueError, match="pip install accelerate"):
        zoo_exp.load_model(checkpoint, device_map="auto")


def test_a_strange_device_map_is_one_line(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: object())
    assert "strange" in refused(checkpoint, device_map="strange")


LOOP = "{% for a in range(99999) %}"
TEMPLATES = {
    "memory": "{{ 'x' * 9999999999 }}",
    "loops": LOOP * 3 + "{% endfor %}" * 3,
    "long": "{{ 'x' * 3000000 }}",
    "power": "{{ 9 ** 999999999 }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_end_is_refused(name, monkeypatch):
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 2.0)
    processor = make_processor()
    processor.chat_template = TEMPLATES[name]
    start = cpu_seconds()
    with pytest.raises(InvalidValueError, match="its chat template is unusable") as caught:
        check_template(processor, "mine")
    assert "\n" not in str(caught.value)
    assert cpu_seconds() - start < 10


def test_a_template_is_checked_when_a_checkpoint_is_loaded(copy_of):
    (copy_of / "chat_template.jinja").write_text(TEMPLATES["long"])
    assert "it writes 3,000,000 characters for a question of four words" in refused(copy_of)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].nothing.at.all }}",
        "{% if %}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% include '/etc/passwd' %}",
        "no image",
    ],
)
def test_a_template_that_fails_is_one_line(template):
    processor = make_processor()
    processor.chat_template = template
    check_template(processor, "mine")
    with contextlib.suppress(InvalidValueError):  # whether `no image` fails is up to the processor
        inputs = chat_inputs(processor, [user_turn([IMAGE, "What?"])])
        assert template == "no image" and "input_ids" in inputs  # noqa: PT018
        return
    with pytest.raises(
        InvalidValueError, match="processor or chat template cannot read the prompt"
    ) as caught:
        chat_inputs(processor, [user_turn([IMAGE, "What?"])])
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=["embedded", "embedded_next", "embedded_qwen"])
def processor(request):
    made = processor_for(request.param, qwen_processor_class())
    check_template(made, request.param)
    return made


def image_tokens(processor, chats):
    ids = chat_inputs(processor, chats)["input_ids"]
    return (ids == processor.image_token_id).sum(dim=1).tolist()


def test_a_placeholder_in_a_question_is_text(processor):
    """As in a question about HTML: without care the processor would look for a second image, and fail."""
    marks = placeholders(processor)
    assert processor.image_token in marks
    expected = image_tokens(processor, [user_turn([IMAGE, "Is there a tag in the page?"])])
    for mark in marks:
        for text in (
            f"Is there an {mark} tag?",
            mark,
            mark * 5,
            f"{mark[:3]}{mark}{mark[3:]}",
            f" {mark}\n{mark} ",
        ):
            assert image_tokens(processor, [user_turn([IMAGE, text])]) == expected
            assert image_tokens(processor, [user_turn([text, IMAGE, text])]) == expected
            assert image_tokens(processor, [user_turn([text])]) == [0]
    turns = [user_turn([IMAGE, "What?"]).messages[0], {"role": "assistant", "content": f"An {marks[0]}"}]
    with contextlib.suppress(InvalidValueError):  # a template without assistant turns
        assert image_tokens(processor, [chat.Chat(turns, [IMAGE])]) == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_escaping_leaves_no_placeholder_and_all_other_text(data):
    processor = SimpleNamespace(
        image_token="<image>", video_token="<|video_pad|>", boi_token="<img>", name="<name>"
    )
    parts = ["<image>", "<|video_pad|>", "<img>", "<", ">", "image", "ima", "ge>", " ", "<name>", "é", "\n"]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=12)))
    got = as_text(processor, text)
    assert not any(mark in got for mark in placeholders(processor))
    assert got.replace(" ", "") == text.replace(" ", "")
    if not any(mark in text for mark in placeholders(processor)):
        assert got == text


def damaged_model(copy_of, part, value):
    weights = load_file(copy_of / "model.safetensors")
    name = next(key for key in weights if part in key and key.endswith("weight") and weights[key].ndim == 2)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[7] = value
    save_file(weights, copy_of / "model.safetensors", metadata={"format": "pt"})
    return zoo_exp.load_model(copy_of)


@pytest.mark.parametrize("selector", ["full", "zoo", "random", "fastv"])
@pytest.mark.parametrize("part", ["vision", "projector", "language_model"])
def test_nan_weights_end_with_a_message_and_no_answer(copy_of, part, selector):
    model = damaged_model(copy_of, part, float("nan"))
    inputs = chat_inputs(model.processor, [user_turn([IMAGE, "What?"])] * 2)
    picker, budget = selectors.get(selector), None if selector == "full" else Budget(count=16)

    @torch.inference_mode()
    def answer():
        batch = EncodedBatch(inputs, model.adapter.encode(inputs, picker.needs))
        generate(model, batch, picker, budget, ["t/1", "t/2"], max_new_tokens=3, do_sample=False)

    with pytest.raises(InvalidValueError, match=r"NaN") as caught:
        answer()
    assert "\n" not in str(caught.value)


def test_nan_logits_name_the_first_sample():
    check = LogitsCheck()
    scores = torch.zeros(3, 5)
    assert check(torch.zeros(3, 1), scores) is scores
    check.refuse(["a", "b", "c"])
    scores = torch.full((3, 5), float("-inf"))  # forbidden tokens are no fault
    check(torch.zeros(3, 1), scores)
    check.refuse(["a", "b", "c"])
    scores[1, 2] = float("nan")
    check(torch.zeros(3, 1), scores)
    check(torch.zeros(3, 1), torch.zeros(3, 5))
    with pytest.raises(InvalidValueError, match=r"^b: the model's logits are NaN"):
        check.refuse(["a", "b", "c"])
    with pytest.raises(InvalidValueError, match=r"^row 1: "):
        check.refuse(["a"])

"""Requests to vLLM are tensors that can be read without vLLM; what spoils an engine is refused before it is sent."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch

import zoo_exp
from zoo_exp import selectors
from zoo_exp.config.engines import server_url
from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.models import routes
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.families import adapter_class
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.serving import vllm_models, vllm_plugin
from zoo_exp.serving.prompt_requests import BASE, Checks, check_grids, image_embeds, prompt_embeds, rows_of
from zoo_exp.serving.sampling import sampling_of
from zoo_exp.serving.vllm_engine import Requests, overrides_of
from zoo_exp.tasks import data, get

IMAGE, BOS, D = 9, 1, 4
CHECKS = Checks(D, 20, BOS)


def prompt_of(*ids, positions=None, dtype=torch.float32):
    """A batch of one prompt with one padding column."""
    row = torch.tensor([[0, *ids]])
    mask = torch.ones_like(row)
    mask[0, 0] = 0
    visual = row == IMAGE
    embeds = torch.arange(row.numel() * D).view(1, -1, D).to(dtype)
    embeds[0, 0] = torch.nan  # padding is not sent
    if positions is not None:
        positions = torch.nn.functional.pad(torch.as_tensor(positions), (1, 0))[..., None, :]
    return PrunedPrompt(embeds, mask, positions, visual, visual.sum(dim=1).tolist(), input_ids=row)


def row_of(*ids, images=None, **more):
    prompt = prompt_of(*ids, **more)
    return rows_of(prompt, [images if images is not None else prompt.kept_tokens], ["q/1"])[0]


def test_a_prompt_of_embeddings_has_no_padding():
    row = row_of(BOS, 5, IMAGE, IMAGE, 6)
    CHECKS.check(row, 3)
    assert torch.equal(prompt_embeds(row)["prompt_embeds"], torch.arange(4, 24.0).view(5, D))


def test_an_image_has_one_placeholder_and_its_embeddings():
    sent = image_embeds(row_of(BOS, IMAGE, IMAGE, IMAGE, 6, 7, images=[1, 0, 2]), IMAGE)
    assert sent["prompt_token_ids"] == [BOS, IMAGE, IMAGE, 6, 7]
    assert [len(part) for part in sent["multi_modal_data"]["image"]] == [1, 2]
    assert torch.equal(sent["multi_modal_data"]["image"][1], torch.arange(12, 20.0).view(2, D))


def test_a_prompt_without_visual_tokens_is_a_prompt_of_text():
    row = row_of(BOS, 5, 6, images=[0])
    CHECKS.check(row, 1)
    assert image_embeds(row, IMAGE) == {"prompt_token_ids": [BOS, 5, 6]}
    assert image_embeds(row, IMAGE, 2) == {"prompt_token_ids": [BOS, 5, 6]}


def carried(row, merge=2):
    """What the plug-in's class reads from a request: the embeddings and the positions."""
    sent = image_embeds(row, IMAGE, merge)
    images, ids = sent["multi_modal_data"]["image"], sent["prompt_token_ids"]
    grids = images["image_grid_thw"]
    sizes = (grids.prod(dim=1) // merge**2).tolist()
    offsets, at = [], 0
    for token in ids:  # vLLM repeats the placeholder
        if token == IMAGE:
            offsets.append(at)
            at += sizes[len(offsets) - 1]
        else:
            at += 1
    parts = images["image_embeds"].split(sizes)
    positions = vllm_models.positions_of(at, offsets, [part[:, D:] for part in parts])
    return [part[:, :D] for part in parts], positions, ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("start", [1, 700])  # 700: a row that bfloat16 and float16 would round
def test_positions_are_carried_exactly(dtype, start):
    places = torch.tensor(
        [
            [0, 1, 2, 2, 2, start + 9, start + 10],
            [0, 1, 2 + start, 2, start + 7, start + 9, start + 10],
            [0, 1, 2, 2 + start, 3, start + 9, start + 10],
        ]
    )
    row = row_of(BOS, 5, IMAGE, IMAGE, IMAGE, 6, 7, positions=places, dtype=dtype)
    parts, positions, ids = carried(row)
    assert ids == [BOS, 5, IMAGE, 6, 7]
    assert torch.equal(positions, places)
    assert torch.equal(parts[0], row.embeds[2:5])


def test_two_images_carry_their_positions():
    text = [0, 0, 0]
    columns = [text, [1, 3, 1], [1, 1, 4], [5, 5, 5], [6, 6, 7], [9, 9, 9]]
    row = row_of(BOS, IMAGE, IMAGE, 5, IMAGE, 6, images=[2, 1], positions=torch.tensor(columns).T)
    _, positions, _ = carried(row)
    assert positions.T.tolist() == columns


def test_a_gap_that_a_dropped_image_left_is_carried_by_the_next_token():
    places = torch.tensor([0, 1, 9, 10]).expand(3, -1)
    row = row_of(BOS, 5, 6, 7, images=[0], positions=places)
    parts, positions, ids = carried(row)
    assert ids == [BOS, 5, IMAGE, 7]
    assert torch.equal(positions, places)
    assert torch.equal(parts[0], row.embeds[2:3])


REFUSED = {
    "nan": (lambda: dataclasses.replace(row_of(BOS, 5), embeds=torch.full((2, D), torch.nan)), "not finite"),
    "infinite": (
        lambda: dataclasses.replace(row_of(BOS, 5), embeds=torch.full((2, D), -torch.inf)),
        "not finite",
    ),
    "width": (lambda: dataclasses.replace(row_of(BOS, 5), embeds=torch.zeros(2, D + 1)), r"takes \[L, 4\]"),
    "empty": (lambda: dataclasses.replace(row_of(BOS, 5), embeds=torch.zeros(0, D)), "no tokens"),
    "long": (lambda: row_of(BOS, *[5] * 17), "max_model_len"),
    "count": (lambda: row_of(BOS, IMAGE, 5, images=[2]), "1 placeholders for images with 2"),
    "bos": (lambda: row_of(5, 6), "beginning-of-sequence"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_spoils_an_engine_is_refused(wrong):
    make, message = REFUSED[wrong]
    with pytest.raises(InvalidValueError, match=f"^q/1: .*{message}"):
        CHECKS.check(make(), 3)


def test_what_cannot_be_carried_is_refused():
    original = row_of(BOS, IMAGE, 5, positions=torch.tensor([0, 3, 9]))
    for send in (prompt_embeds, lambda row: image_embeds(row, IMAGE)):
        with pytest.raises(InvalidValueError, match="positions are not 0 to 2"):
            send(original)
    with pytest.raises(InvalidValueError, match="text lies between"):
        image_embeds(row_of(BOS, IMAGE, 5, IMAGE, images=[2]), IMAGE)
    with pytest.raises(InvalidValueError, match="token ids"):
        image_embeds(dataclasses.replace(row_of(BOS, 5), ids=None), IMAGE)
    with pytest.raises(InvalidValueError, match="ends with an image"):
        image_embeds(row_of(BOS, IMAGE), IMAGE, 2)
    far = torch.tensor([0, BASE**2, BASE**2 + 1]).expand(3, -1)
    with pytest.raises(InvalidValueError, match="can be carried"):
        image_embeds(row_of(BOS, IMAGE, 5, positions=far), IMAGE, 2)
    with pytest.raises(InvalidValueError, match="reads more than embeddings"):
        rows_of(dataclasses.replace(prompt_of(BOS), feed=object()), [[]], ["q/1"])


def test_a_count_that_does_not_fit_its_grid_is_refused():
    check_grids([torch.zeros(3, D)], torch.tensor([[1, 2, 6]]), 2, "q/1")
    with pytest.raises(InvalidValueError, match=r"grids of \[9\] visual tokens for embeddings of \[3\]"):
        check_grids([torch.zeros(3, D)], torch.tensor([[1, 6, 6]]), 2, "q/1")


def model_with(**settings):
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 3], **settings))


def test_sampling_is_greedy_with_the_checkpoints_own_settings():
    model = model_with(do_sample=True, temperature=0.7, repetition_penalty=1.05)
    found = sampling_of(model, {"max_new_tokens": 5, "do_sample": False}, knows_prompt=True)
    assert found == {
        **{"temperature": 0.0, "max_tokens": 5, "min_tokens": 0},
        **{"repetition_penalty": 1.05, "stop_token_ids": [2, 3]},
    }
    with pytest.raises(InvalidValueError, match=r"repetition_penalty=1\.05 .*image_embeds"):
        sampling_of(model, {"max_new_tokens": 5}, knows_prompt=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 3}, "beam search"),
        ({"do_sample": True}, "do_sample=True"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2"),
        ({"logits_processor": [print]}, "option logits_processor"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
    ],
)
def test_settings_that_vllm_does_not_have_are_refused(options, message):
    with pytest.raises(InvalidValueError, match=message):
        sampling_of(model_with(), {"max_new_tokens": 5, **options}, knows_prompt=True)
    own = {name: value for name, value in options.items() if name in ("num_beams", "no_repeat_ngram_size")}
    if own:  # the same in the checkpoint's generation_config.json
        with pytest.raises(InvalidValueError, match=message):
            sampling_of(model_with(**own), {"max_new_tokens": 5}, knows_prompt=True)


def test_routes_say_which_way_and_why_not():
    assert routes.way_of("llava", "auto") == "prompt_embeds"
    assert routes.way_of("qwen2_5_vl", "auto") == "image_embeds"
    assert routes.way_of("qwen2_5_vl", "auto", served=True) == "prompt_embeds"
    for family, reason in {
        "gemma3": "both directions",
        "qwen3_vl": "encoder layers",
        "idefics3": "not compared",
    }.items():
        with pytest.raises(InvalidValueError, match=f"{family}: .*{reason}.* type engine=hf"):
            routes.way_of(family, "auto")
    with pytest.raises(InvalidValueError, match="a server takes prompt_embeds only"):
        routes.way_of("llava", "image_embeds", served=True)
    with pytest.raises(InvalidValueError, match="llava_next has prompt_embeds"):
        routes.way_of("llava_next", "image_embeds")
    for family, route in routes.ROUTES.items():
        assert adapter_class(family).positions == route.default
        assert route.auto in route.positions


@pytest.mark.parametrize("family", ["embedded", "embedded_qwen"])
def test_requests_of_a_loaded_model(family):
    """The decoder is cut, and the requests are those of the whole model's prompts."""
    loaded = zoo_exp.load_model(family, decoder=False)
    layers = loaded.model.config.get_text_config().num_hidden_layers
    assert (len(loaded.adapter.layers), layers > 1) == (1, True)
    task = get("world2_gqa")
    rows = data.load(task, None, 2)
    inputs = chat_inputs(loaded.processor, [user_turn(task.content(row, "embedded")) for row in rows])
    made, kept = {}, []

    class Sending:
        name, stages = "sending", False

        def __init__(self, way):
            self.requests = Requests(loaded, way, 512)
            self.check = self.requests.check

        def generate(self, prompt, images, names, *, on_tokens=None, **options):
            made[self.requests.way], sampling = self.requests.made(prompt, images, names, options)
            kept[:] = prompt.kept_tokens
            assert sampling["max_tokens"] == 3
            return self.requests.padded([[5, 2], [6]], names)

        def close(self):
            pass

    with torch.inference_mode():
        batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, frozenset()))

        def ask(way, name, budget, positions):
            answer = generate(
                loaded, batch, selectors.get(name), budget, ["a", "b"], positions=positions, generator=Sending(way),
                max_new_tokens=3, do_sample=False,
            )  # fmt: skip
            assert answer.new_tokens.tolist() == [[5, 2], [6, 0]]
            return made[way]

        embeds = ask("prompt_embeds", "random", Budget(count=7), "contiguous")
        ids = ask("image_embeds", "random", Budget(count=7), "contiguous")
        for whole, image in zip(embeds, ids, strict=True):
            part = image["multi_modal_data"]["image"]
            if family == "embedded":
                (part,) = part
            else:
                assert part["image_grid_thw"].prod() == 4 * 7
                part = part["image_embeds"][:, :-8]
            length = len(image["prompt_token_ids"]) - 1 + 7
            assert whole["prompt_embeds"].shape == (length, part.shape[1])
            at = image["prompt_token_ids"].index(loaded.adapter.image_token_id)
            assert torch.equal(whole["prompt_embeds"][at : at + 7], part)
        if family == "embedded_qwen":
            for name in ("random", "full", "blind"):
                budget = Budget(count=7) if name == "random" else None
                assert len(ask("image_embeds", name, budget, "original")) == 2
            with pytest.raises(InvalidValueError, match="whole image"):
                ask("prompt_embeds", "full", None, "contiguous")
            rope = overrides_of(loaded.model.config)["text_config"]["rope_parameters"]
            assert (rope["mrope_section"], rope["mrope_interleaved"]) == ([6, 5, 5], True)
        with pytest.raises(InvalidValueError, match="prunes between decoder layers"):
            ask("prompt_embeds", "fastv", Budget(count=7), "contiguous")
    with pytest.raises(ZooExpError, match="b: vLLM returned no token"):
        Requests(loaded, "prompt_embeds", 512).padded([[5], []], ["a", "b"])


def test_the_plug_in_registers_names_and_imports_nothing(monkeypatch):
    registered = []
    fake = SimpleNamespace(
        ModelRegistry=SimpleNamespace(register_model=lambda *names: registered.append(names))
    )
    monkeypatch.setitem(sys.modules, "vllm", fake)
    vllm_plugin.register()
    vllm_plugin.register()
    assert registered[:3] == registered[3:]
    for _, place in registered[:3]:
        module, name = place.split(":")
        assert module == vllm_models.__name__
        assert name in vllm_models._MADE
    with pytest.raises(AttributeError, match="Other"):
        _ = vllm_models.Other


@pytest.mark.parametrize(
    "text",
    [
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:x",
        "http://a b",
        "http://u:p@127.0.0.1",
        "",
        "http://[::1",
    ],
)
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(InvalidValueError, match=r"give http://HOST:PORT"):
        server_url(text)

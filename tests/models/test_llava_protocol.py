"""`model.protocol`: prompts and pixels of LLaVA's own code, and of the processor of `transformers`."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zoo_exp import tasks
from zoo_exp.config import compose
from zoo_exp.config.identity import cell_id
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.evaluation.sample_batches import Collate, Sample
from zoo_exp.models.chat import Chat, chat_inputs, user_turn
from zoo_exp.models.llava_protocol import SquareImages, describe
from zoo_exp.models.loading import load_model
from zoo_exp.rehearsal import slim

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
MEAN, STD = slim._MEAN, slim._STD
SIZES = [(640, 427), (427, 640), (500, 500), (101, 100), (336, 336), (31, 1000)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The settings of the published checkpoints, without weights."""
    root = tmp_path_factory.mktemp("published")
    return {
        name: slim.make(name, root / name, weights=False)
        for name in ("llava15_7b", "llava_next_7b", "qwen25_vl_7b")
    }


@pytest.fixture(scope="module")
def loaded(folders):
    """(name, protocol) -> the model with one layer and random weights."""
    return {
        (name, protocol): load_model(folders[name], weights="random", layers=1, protocol=protocol)
        for name in ("llava15_7b", "llava_next_7b")
        for protocol in ("hf", "llava")
    }


def photo(size, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def prompt(one, *content):
    chat = content[0] if isinstance(content[0], Chat) else user_turn(content)
    ids = chat_inputs(one.processor, [chat])["input_ids"][0].tolist()
    mark = one.model.config.image_token_id
    once = [i for n, i in enumerate(ids) if not n or i != mark or ids[n - 1] != mark]
    return one.processor.tokenizer.decode(once).removeprefix("<s>")


def pixels(one, image):
    return chat_inputs(one.processor, [user_turn([image, "?"])])["pixel_values"][0]


def normalised(image):
    array = np.asarray(image, dtype=np.float64) / 255
    return torch.tensor((array - MEAN) / STD, dtype=torch.float32).permute(2, 0, 1)


def expanded(image):
    """`expand2square`: the mean colour around the image, which is in the middle (rounded down)."""
    width, height = image.size
    side = max(width, height)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = [int(255 * mean) for mean in MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(image)
    return Image.fromarray(canvas)


def canvas_of(width, height):
    """`select_best_resolution`: the first of the best canvases, as width and height."""

    def fit(canvas):
        scale = min(canvas[0] / width, canvas[1] / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, used - canvas[0] * canvas[1]

    return max([(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)], key=fit)


def released_tokens(width, height):
    """The base tile, and the canvas without its border (`unpad_image`), with a newline per row."""
    columns, rows = (edge // 14 for edge in canvas_of(width, height))
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(height * columns / width)) // 2)
    else:
        columns -= 2 * ((columns - int(width * rows / height)) // 2)
    return 576 + rows * (columns + 1)


def tiles(image):
    """`process_anyres_image`: the squeezed image, then tiles of the image fitted into its canvas."""
    width, height = image.size
    best = canvas_of(width, height)
    across, down = best[0] / width, best[1] / height
    new = (best[0], min(-int(-height * across // 1), best[1]))
    if across >= down:
        new = (min(-int(-width * down // 1), best[0]), best[1])
    canvas = Image.new("RGB", best)
    canvas.paste(
        image.resize(new, Image.Resampling.BICUBIC), ((best[0] - new[0]) // 2, (best[1] - new[1]) // 2)
    )
    places = [(x, y) for y in range(0, best[1], 336) for x in range(0, best[0], 336)]
    base = image.resize((336, 336), Image.Resampling.BICUBIC)
    return [base, *(canvas.crop((x, y, x + 336, y + 336)) for x, y in places)]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_llava_15(loaded, size):
    image = photo(size)
    small = expanded(image).resize((336, 336), Image.Resampling.BICUBIC)
    own = pixels(loaded["llava15_7b", "llava"], image)
    torch.testing.assert_close(own, normalised(small), atol=1e-5, rtol=0)
    stock = pixels(loaded["llava15_7b", "hf"], image)
    assert torch.equal(own, stock) == (size[0] == size[1])
    shorter = min(size)
    whole = image.resize(tuple(336 * edge // shorter for edge in size), Image.Resampling.BICUBIC)
    left, top = ((edge - 336) // 2 for edge in whole.size)
    cut = whole.crop((left, top, left + 336, top + 336))
    torch.testing.assert_close(stock, normalised(cut), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [*SIZES, (300, 200), (1500, 400)])
def test_pixels_and_tokens_of_llava_next(loaded, size):
    """Only the canvas of small images differs between the protocols."""
    image, counts = photo(size), {}
    expected = torch.stack([normalised(tile) for tile in tiles(image)])
    for protocol in ("hf", "llava"):
        one = loaded["llava_next_7b", protocol]
        inputs = chat_inputs(one.processor, [user_turn([image, "?"])])
        counts[protocol] = int((inputs["input_ids"] == one.model.config.image_token_id).sum())
        assert [len(one.adapter.sources(inputs["image_sizes"], 576)[0])] == [counts[protocol]]
        if protocol == "llava" or max(size) > 336:
            torch.testing.assert_close(inputs["pixel_values"][0], expected, atol=1e-5, rtol=0)
    assert counts["llava"] == released_tokens(*size)
    assert (counts["hf"] != counts["llava"]) == (size == (300, 200))


def test_one_answer_of_each_protocol(loaded):
    """Model and processor agree on tiles and tokens."""
    image = photo((300, 200))
    for one in loaded.values():
        inputs = chat_inputs(one.processor, [user_turn([image, "What is it?"])])
        with torch.inference_mode():
            ((tokens,),) = one.adapter.encode(inputs, frozenset())
        assert tokens.count == int((inputs["input_ids"] == one.model.config.image_token_id).sum())


@pytest.mark.parametrize("name", ["llava15_7b", "llava_next_7b"])
def test_prompts(loaded, name):
    own, stock = loaded[name, "llava"], loaded[name, "hf"]
    a, b = photo((40, 30)), photo((30, 40))
    assert prompt(own, a, "What is it?") == f"{SYSTEM}USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt(stock, a, "What is it?") == "USER: <image>\nWhat is it? ASSISTANT:"
    assert prompt(own, "What is it?") == f"{SYSTEM}USER: What is it? ASSISTANT:"
    assert prompt(own, a, b, "Which one?") == f"{SYSTEM}USER: <image> <image>\nWhich one? ASSISTANT:"
    assert prompt(own, "Look at", a, "and", b) == f"{SYSTEM}USER: Look at <image> and <image> ASSISTANT:"
    assert prompt(own, a, "An <image> tag?") == f"{SYSTEM}USER: <image>\nAn < image> tag? ASSISTANT:"
    turns = user_turn([a, "What?"]).messages
    turns += [
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": "Sure?"},
    ]
    several = f"{SYSTEM}USER: <image>\nWhat? ASSISTANT: A dog.</s>USER: Sure? ASSISTANT:"
    assert prompt(own, Chat(turns, [a])) == several
    turns = [{"role": "system", "content": "Be brief."}, *user_turn(["Hello"]).messages]
    assert prompt(own, Chat(turns, [])) == "Be brief. USER: Hello ASSISTANT:"


def test_mmmu_has_its_images_first_as_simple_models_of_lmms_eval(loaded):
    """Its markers stay in the text, where chat models get the images between texts."""
    doc = {
        "id": "validation_Art_2", "question": "Look at <image 2> and <image 1>. Which?", "options": "['a', 'b']",
        "answer": "A", "question_type": "multiple-choice", "image_1": photo((40, 30)), "image_2": photo((30, 40)),
    }  # fmt: skip
    model = compose(["selector=full", "model=llava15_7b", "task=mmmu_val"]).model
    assert (model.protocol, model.prompt_family) == ("llava", "llava_code")
    one = loaded["llava15_7b", "llava"]
    batch = Collate(tasks.get("mmmu_val"), one.processor, model.prompt_family)([Sample(0, doc["id"], doc)])
    ids = [i for i in batch.inputs["input_ids"][0].tolist() if i != one.model.config.image_token_id]
    text = one.processor.tokenizer.decode(ids).removeprefix("<s>")
    assert text.startswith(f"{SYSTEM}USER:  \nLook at <image 2> and <image 1>. Which?\nA. a\nB. b\n")
    assert len(batch.inputs["pixel_values"]) == 2


def test_the_papers_models_have_the_protocol_and_others_do_not():
    for name, protocol in {
        "table1_llava15_7b": "llava",
        "table2_llava15_13b": "llava",
        "table3_llava_next_7b": "llava",
        "qwen25_vl_7b": "hf",
    }.items():
        experiment = compose([f"+exp={name}"])
        assert experiment.model.protocol == protocol
        assert f"protocol: {protocol}" in experiment.to_yaml()
        assert compose([f"+exp={name}", "model=embedded"]).model.protocol == "hf"


def test_the_protocol_enters_the_identity_only_where_it_is_llavas():
    model = compose(["selector=full", "model=llava15_7b", "task=gqa"]).model
    ids = {protocol: cell_id(replace(model, protocol=protocol), "gqa", 0) for protocol in ("hf", "llava")}
    assert ids["hf"] == "4e227de46768"  # as before there was a choice
    assert ids["llava"] != ids["hf"]


def test_a_protocol_that_cannot_be(folders, tmp_path):
    with pytest.raises(InvalidValueError, match=r"this is a qwen2_5_vl: type model\.protocol=hf"):
        compose(["selector=full", "model=qwen25_vl_7b", "model.protocol=llava", "task=gqa"])
    with pytest.raises(InvalidValueError, match=r"model\.protocol=lava: allowed are hf, llava"):
        compose(["selector=full", "model=llava15_7b", "model.protocol=lava", "task=gqa"])
    with pytest.raises(InvalidValueError, match=r"this is a qwen2_5_vl: type model\.protocol=hf"):
        load_model(folders["qwen25_vl_7b"], weights="random", layers=1, protocol="llava")
    with pytest.raises(UnknownNameError, match="unknown protocol 'lava'"):
        load_model(folders["llava15_7b"], weights="random", layers=1, protocol="lava")
    other = slim.make("llava_next_7b", tmp_path, weights=False)
    mistral = "{% for m in messages %}[INST] <image>\n{{ m['content'][1]['text'] }} [/INST]{% endfor %}"
    (other / "chat_template.json").write_text(json.dumps({"chat_template": mistral}))
    with pytest.raises(InvalidValueError, match=r"writes '.*\[/INST\]': type model\.protocol=hf"):
        load_model(other, weights="random", layers=1, protocol="llava")


def test_square_images_go_to_workers(loaded):
    images = loaded["llava15_7b", "llava"].processor.image_processor
    again = pickle.loads(pickle.dumps(images))
    assert isinstance(again, SquareImages)
    assert again.crop_size == images.crop_size
    a = photo((40, 30))
    assert torch.equal(
        again([a], return_tensors="pt")["pixel_values"], images([a], return_tensors="pt")["pixel_values"]
    )


def test_a_protocol_in_words(loaded):
    said = [describe(one.protocol, one.adapter.family) for one in loaded.values()]
    assert ["published numbers follow protocol=llava" in text for text in said] == [True, False, True, False]
    assert ["padded to squares" in text for text in said] == [False, True, False, False]
    assert all("system sentence" in text for text in said[1::2])
    assert "protocol=llava" not in describe("hf", "qwen2_5_vl")

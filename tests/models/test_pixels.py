"""`model.min_pixels` and `model.max_pixels` of Qwen2.5-VL: the protocol's defaults, and ids that stay without them."""

from dataclasses import replace

import pytest
from PIL import Image

from zoo_exp.config import compose
from zoo_exp.config.identity import cell_id
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import load_model
from zoo_exp.rehearsal import slim


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return slim.make("qwen25_vl_7b", tmp_path_factory.mktemp("qwen"))


def tokens(loaded, size):
    inputs = chat_inputs(loaded.processor, [user_turn([Image.new("RGB", size), "What is it?"])])
    return int((inputs["input_ids"] == loaded.model.config.image_token_id).sum())


def test_the_protocols_bounds(qwen):
    """As published, 37 x 25 pixels are 6 tokens and 4032 x 3024 are 15,552; with lmms-eval's bounds 280 and 2028."""
    plain = load_model(qwen, layers=1)
    assert tokens(plain, (37, 25)) == 6
    model = compose(["model=qwen25_vl_7b", "selector=full", "task=pope"]).model
    assert (model.min_pixels, model.max_pixels) == (200704, 1605632)
    bounded = load_model(qwen, layers=1, min_pixels=model.min_pixels, max_pixels=model.max_pixels)
    assert tokens(bounded, (37, 25)) == 280
    assert tokens(bounded, (4032, 3024)) == 2028
    assert tokens(bounded, (640, 448)) == tokens(plain, (640, 448))


def test_bounds_enter_the_identity_only_where_they_are_set():
    model = compose(["model=embedded", "selector=full", "task=embedded_pope"]).model
    assert model.min_pixels is None
    old = cell_id(model, "embedded_pope", 0)
    assert old == cell_id(replace(model, checkpoint="any/where"), "embedded_pope", 0)
    assert old != cell_id(replace(model, max_pixels=1000), "embedded_pope", 0)


def test_bounds_that_cannot_be(qwen):
    with pytest.raises(InvalidValueError, match="min_pixels 4000 is above max_pixels 2000"):
        load_model(qwen, layers=1, min_pixels=4000, max_pixels=2000)
    with pytest.raises(InvalidValueError, match=r"keep an image's shape \(Qwen2\.5-VL\); leave them out"):
        load_model("embedded", min_pixels=4000)

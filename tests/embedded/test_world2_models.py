"""The models of world 2 are stock classes: packed forwards, processors, keep-all identity, odd images."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo_exp
from zoo_exp.embedded.packed_forward import PREFIX_TEXT, prefixed_forward, vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.world2 import builders, tiles
from zoo_exp.embedded.world2.layout import make_scene_2
from zoo_exp.embedded.world2.learners import LlavaLearner
from zoo_exp.embedded.world2.lexicon import TOKEN_ID_2
from zoo_exp.embedded.world2.plan import plan_for
from zoo_exp.embedded.world2.qwen import QwenLearner
from zoo_exp.embedded.world2.qwen_model import make_qwen
from zoo_exp.embedded.world2.scores import keep_all, keep_none, keep_random, measure
from zoo_exp.embedded.world2.tiles import NextLearner
from zoo_exp.embedded.world2.train import processor_for, save_model
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import load_model
from zoo_exp.models.qwen2_5_vl import qwen_processor_class
from zoo_exp.tasks.images import decode_image

NAMES = ("embedded", "embedded_next", "embedded_qwen")
SIZE = {"embedded": (96, 96), "embedded_next": (192, 192), "embedded_qwen": (64, 128)}


def make(name, **changes):
    plan = plan_for(name, **changes)
    if name == "embedded":
        return LlavaLearner(plan)
    if name == "embedded_next":
        return NextLearner(plan)
    return QwenLearner(plan, make_qwen(0))


@pytest.fixture(scope="module", params=NAMES)
def saved(request, tmp_path_factory):
    """A model of each family as it is shipped, with untrained or half-trained weights, read by the package."""
    folder = tmp_path_factory.mktemp(request.param)
    learner = make(request.param)
    save_model(learner, folder, processor_for(request.param, qwen_processor_class()), torch.float32)
    return request.param, learner.eval(), load_model(folder)


@torch.no_grad()
@pytest.mark.parametrize("shape", tiles.SHAPES_OF_IMAGES)
def test_views_and_tokens_are_the_stock_processors_and_classes(shape):
    learner, processor = make("embedded_next").eval(), builders.next_processor()
    scene = make_scene_2("train", 3, 96 * shape[0], 96 * shape[1])
    inputs = chat_inputs(processor, [user_turn([Image.fromarray(scene.pixels), "Is there a circle?"])])
    mine = normalise(tiles.views(scene.pixels))
    stock = inputs["pixel_values"][0]
    torch.testing.assert_close(stock[: len(mine)], mine, atol=1e-5, rtol=1e-5)
    inner = learner.model.model
    features, _ = learner.encode(mine)
    packed = tiles.pack_views(inner.multi_modal_projector(features)[None], inner.image_newline, shape)
    output = inner.get_image_features(inputs["pixel_values"], image_sizes=inputs["image_sizes"])
    torch.testing.assert_close(packed[0], torch.cat(list(output.pooler_output)), atol=1e-4, rtol=1e-4)
    numbers, places = tiles.places_of(shape)
    newlines = set(range(packed.shape[1])) - set(numbers.tolist())
    assert len(newlines) == shape[0] * tiles.CELLS
    assert all(torch.equal(packed[0, slot], inner.image_newline) for slot in newlines)
    assert places.abs().max() < 1
    logits = learner.model(**inputs).logits[0, -1]
    ids = inputs["input_ids"][:, len(PREFIX_TEXT) + packed.shape[1] :]
    position = torch.arange(ids.shape[1])[None]
    hidden, _ = prefixed_forward(inner.language_model, packed, (ids, torch.zeros_like(ids), position))
    torch.testing.assert_close(learner.model.lm_head(hidden[0, -1]), logits, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_a_pruned_packed_forward_equals_the_engine(saved):
    """Scores come from the packed forward; here it answers as the engine's pruned generation does."""
    name, learner, loaded = saved
    height, width = SIZE[name]
    scene = make_scene_2("test", 1, height, width)
    inputs = chat_inputs(loaded.processor, [user_turn([Image.fromarray(scene.pixels), "Is there a circle?"])])
    (tokens,) = loaded.adapter.encode(inputs, frozenset())[0]
    from zoo_exp.embedded.world2.scores import visual_tokens

    mine = visual_tokens(learner, [scene])
    torch.testing.assert_close(mine[0], tokens.projected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_keeping_every_token_is_the_stock_model(saved):
    name, _, loaded = saved
    scene = make_scene_2("test", 2, *SIZE[name])
    inputs = chat_inputs(
        loaded.processor, [user_turn([Image.fromarray(scene.pixels), "How many circle objects?"])]
    )
    options = {
        "max_new_tokens": 1,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    stock = loaded.model.generate(**inputs, **options)
    with zoo_exp.pruned(loaded.model, "divprune", budget="100%"):
        kept = loaded.model.generate(**inputs, **options)
    assert torch.equal(stock.logits[0], kept.logits[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (50, 40), 90),
        Image.fromarray(np.full((60, 80, 4), 128, np.uint8), "RGBA"),
        Image.new("RGB", (3, 2), (200, 10, 10)),
        Image.new("RGB", (4000, 1), (10, 200, 10)),
        Image.new("RGB", (1, 150), (10, 20, 200)),
    ],
    ids=["grey", "alpha", "smaller than a patch", "1 x 4000", "150 x 1"],
)
def test_odd_images_are_answered(saved, image):
    loaded = saved[2]
    chat = user_turn([decode_image(image, "odd"), "Is there a circle?"])
    inputs = chat_inputs(loaded.processor, [chat])
    assert loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False).shape[0] == 1
    with zoo_exp.pruned(loaded.model, "divprune", budget="20%"):
        assert loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False).shape[0] == 1


@pytest.mark.parametrize("name", NAMES)
def test_scores_count_every_question_under_every_arm(name):
    arms = {"full": keep_all, "blind": keep_none, "random@20": keep_random(20)}
    result = measure(make(name), arms, "validation", rows=4)
    assert all(len(scores.right) == 36 for scores in result.values())
    assert result["full"].family == result["blind"].family
    assert set(result["full"].by_family()) == {
        *("pope", "gqa", "vqav2", "textvqa", "mmbench", "seedbench", "scienceqa", "mme", "mmmu")
    }


def test_the_feature_layer_is_the_stock_one():
    learner = make("embedded").eval()
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        features, _ = vision_forward(learner.model.model.vision_tower, pixels)
        output = learner.model.model.get_image_features(pixels)
    torch.testing.assert_close(
        learner.model.model.multi_modal_projector(features)[0],
        torch.cat(list(output.pooler_output)),
        atol=1e-4,
        rtol=1e-4,
    )
    assert learner.model.get_input_embeddings().weight.shape[0] >= len(TOKEN_ID_2)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_visual_tokens_is_learnt(name):
    """`blind_share`: the same answers as the loss of text alone, whatever the images show."""
    small = {"dense_steps": 0, "joint_steps": 2, "images": 2, "text_length": 64, "questions": 8}
    learner = make(name, drop_share=1.0, blind_share=1.0, align_weight=0.0, side_weight=0.0, **small)
    losses = learner.losses(0)
    assert losses["thinned"] == 1
    losses["answer"].backward()
    inner = learner.model.model
    projector = inner.visual.merger if name == "embedded_qwen" else inner.multi_modal_projector
    assert all(p.grad is None or not p.grad.any() for p in projector.parameters())
    assert inner.language_model.layers[0].mlp.down_proj.weight.grad.any()

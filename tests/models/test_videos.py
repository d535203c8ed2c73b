"""Videos: pruned per frame or as a whole, with the positions of the unpruned prompt, bit-identical when all is kept."""

import inspect

import pytest
import torch
import transformers
from PIL import Image
from test_generic_families import TYPES, EveryOther, answer, error, limit
from tiny_changes import BATCH_DEPENDS
from tiny_configs import IMAGE
from tiny_families import tiny_family
from tiny_videos import (
    FRAMES,
    IN_IMAGE_TOKENS,
    NO_VIDEOS,
    VIDEO_TYPES,
    cut_reference,
    handed_positions,
    split_video_rows,
    stays,
    video_prompt,
    visual_columns,
)

import zoo_exp
from zoo_exp import selectors
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for
from zoo_exp.models.generic_support import vision_language_types
from zoo_exp.models.tiny import tiny_model

FIRST = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "llava_next_video")


def build(model_type):
    """A tiny model of any type."""
    return tiny_model(model_type) if model_type == "qwen2_5_vl" else tiny_family(model_type)


@pytest.fixture(scope="module")
def first():
    """The most used types, made once; a test must leave them as it found them."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = build(name)
        return made[name]

    return get


@pytest.mark.parametrize(
    "model_type", [t if t in FIRST else pytest.param(t, marks=pytest.mark.slow) for t in VIDEO_TYPES]
)
def test_a_pruned_video_is_a_prompt_that_never_held_the_other_tokens(model_type, first):
    model = first(model_type) if model_type in FIRST else build(model_type)
    row = ("video",) if model_type in IN_IMAGE_TOKENS else ("image", "video")
    given = video_prompt(model, (row,), seed=1)
    adapter = adapter_for(model)
    plain = answer(model, given, 4)
    with zoo_exp.pruned(model, "full") as pruning:
        pruning._engine.force = True
        same = answer(model, given, 4)
    assert torch.equal(same[0], plain[0])
    assert torch.equal(same[1], plain[1])
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        ids, logits = answer(model, given, 4)
    left = stays(given, row, pruning.selections[0])
    assert pruning.kept_tokens == [int((left & visual_columns(given)[0]).sum())]
    assert not left.all()
    expected = cut_reference(model, given, left, 4, original=adapter.positions == "original")
    assert error(logits[0, 0], expected[0]) < 1e-5
    assert error(logits[0], expected) < limit(model)
    assert torch.equal(ids[0, -4:], expected.argmax(dim=-1))


@pytest.mark.parametrize("model_type", FIRST)
def test_a_padded_batch_with_videos_equals_its_prompts_one_by_one(model_type, first):
    model, rows = first(model_type), (("video",), ("image", "video"))
    given = video_prompt(model, rows, seed=2)
    assert not given["attention_mask"].all()
    with zoo_exp.pruned(model, EveryOther()):
        ids, logits = answer(model, given, 3)
        alone = [answer(model, one, 3) for one in split_video_rows(model, given, rows)]
    assert model_type not in BATCH_DEPENDS
    for b, (one, expected) in enumerate(alone):
        assert error(logits[b], expected[0]) < 1e-5
        assert torch.equal(ids[b, -3:], one[0, -3:])


@pytest.mark.parametrize("model_type", FIRST)
def test_a_budget_per_frame_or_per_video(model_type, first):
    model = first(model_type)
    given = video_prompt(model, seed=3)
    count = int(visual_columns(given).sum())
    per_frame = count // FRAMES
    for selector, options in (("divprune", {}), ("random", {}), ("uniform_grid", {})):
        with zoo_exp.pruned(model, selector, "2/frame", **options) as pruning:
            answer(model, given, 1)
        frames = pruning.selections[0][0].indices // per_frame
        assert frames.bincount(minlength=FRAMES).tolist()[:FRAMES] == [2] * FRAMES
        assert pruning.kept_tokens == [2 * FRAMES]
    places = pruning.selections[0][0].indices.view(FRAMES, 2) % per_frame  # of uniform_grid
    assert (places == places[0]).all()
    for budget, kept in ((5, 5), ("1.0", count), ("50%/frame", per_frame // 2 * FRAMES)):
        with zoo_exp.pruned(model, "divprune", budget) as pruning:
            answer(model, given, 1)
        assert pruning.kept_tokens == [kept]
        assert repr(pruning).endswith(f"{kept} visual tokens kept of {count}>")
    with pytest.raises(InvalidValueError, match="show draws images, and the last prompt has a video"):
        pruning.show(Image.new("RGB", (8, 8)))


def test_the_frames_of_a_video_have_draws_of_their_own(first):
    model = first("llava_next_video")
    with zoo_exp.pruned(model, "random", "2/frame") as pruning:
        answer(model, video_prompt(model, seed=3), 1)
    assert len({tuple(r) for r in (pruning.selections[0][0].indices.view(FRAMES, 2) % 4).tolist()}) > 1


@pytest.mark.parametrize(
    ("selector", "budget", "row", "message"),
    [
        ("divprune", "2/frame", ("image",), "an image has no frames: give 2 .for every image. or 2/tile"),
        ("divprune", "2/frame", ("image", "video"), "an image has no frames"),
        ("divprune", "2/tile", ("video",), "a video has no tiles: give 2/frame, or a budget per video"),
        ("divprune", "9/frame", ("video",), "above the 4 visual tokens of a frame: give 1/frame to 4/frame"),
        ("divprune", "40%/tile", ("video",), "give 0.4/frame"),
        ("hiprune", 6, ("video",), "works on one image at a time: give a video a budget per frame"),
        (
            "fastv",
            "2/frame",
            ("video",),
            "layer selectors do not support budgets per frame; give a number per prompt",
        ),
    ],
)
def test_budgets_that_a_prompt_cannot_have_are_refused(selector, budget, row, message, first):
    model = first("qwen2_5_vl")
    given = video_prompt(model, (row,))
    with pytest.raises(InvalidValueError, match=message), zoo_exp.pruned(model, selector, budget):
        answer(model, given, 1)
    assert "get_video_features" not in model.model.__dict__


def test_a_video_without_pixels_and_a_video_before_generation_are_refused(first):
    model = first("qwen2_5_vl")
    given = video_prompt(model)
    words = {"input_ids": given["input_ids"]}
    with (
        zoo_exp.pruned(model, EveryOther()),
        pytest.raises(InvalidValueError, match="no video came with it: pass pixel_values_videos"),
    ):
        model(**words)
    with pytest.raises(InvalidValueError, match="videos are pruned by"):
        adapter_for(model).encode(given, frozenset())


def test_the_time_axis_is_kept(first):
    """Every kept token has its time, row and column; new tokens go on as without pruning."""
    model = first("qwen2_5_vl")
    given = video_prompt(model, seed=4)
    whole, step = (positions[-3:] for positions in handed_positions(model, given, 2))
    with zoo_exp.pruned(model, "divprune", "2/frame") as pruning:
        cut, cut_step = handed_positions(model, given, 2)
    left = stays(given, ("video",), pruning.selections[0])
    assert torch.equal(cut, whole[..., left])
    assert len(cut[0, 0].unique()) > 3  # words, and three times of frames
    assert torch.equal(cut_step, step)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_a_loop_of_forward_calls_counts_on_like_the_unpruned_one(model_type, first):
    """Without `generate`, the model counts on from the largest position, which may be a time of the video."""
    model = first(model_type)
    given = video_prompt(model, seed=5)

    def loop():
        logits, out = [], model(**given, use_cache=True)
        for _ in range(3):
            logits.append(out.logits[:, -1])
            word = out.logits[:, -1:].argmax(dim=-1)
            out = model(input_ids=word, past_key_values=out.past_key_values)
        return torch.stack([*logits, out.logits[:, -1]])

    with torch.no_grad():
        plain = loop()
        with zoo_exp.pruned(model, "full") as pruning:
            pruning._engine.force = True
            assert torch.equal(loop(), plain)


def test_sensitivity_and_attention_of_frames(first):
    """Zoo and hiprune read every frame like an image of that size."""
    model = first("qwen2_5_vl")
    given = video_prompt(model, seed=6)
    for selector in ("zoo", "hiprune", "divprune"):
        with zoo_exp.pruned(model, selector, "2/frame") as pruning:
            answer(model, given, 1)
        assert pruning.kept_tokens == [2 * FRAMES]
    with zoo_exp.pruned(model, "zoo", 6) as pruning:
        answer(model, given, 1)
    adapter, tokens = adapter_for(model), []
    pixels = given["pixel_values_videos"].chunk(FRAMES)
    for patches in pixels:
        image = {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]])}
        ids = torch.full((1, 4), IMAGE)
        tokens.append(adapter.encode({"input_ids": ids, **image}, selectors.get("zoo").needs)[0][0])
    joined = torch.cat([t.features for t in tokens])
    expected = selectors.get("zoo").score(
        tokens[0].__class__(
            projected=torch.cat([t.projected for t in tokens]),
            features=joined,
            project=tokens[0].project,
            mlp=tokens[0].mlp,
        ),
        zoo_exp.core.seeding.generator_for(0, "0"),
    )
    assert torch.allclose(pruning.selections[0][0].scores, expected, rtol=1e-4)


def test_a_selector_that_cannot_read_pooled_frames_is_refused_with_the_reason(first):
    """LLaVA-OneVision pools the rows of its projector over space in videos."""
    model = first("llava_onevision")
    with (
        pytest.raises(InvalidValueError, match=r"does not give 'features'.*Selectors that work: .*divprune"),
        zoo_exp.pruned(model, "zoo", 4),
    ):
        answer(model, video_prompt(model), 1)


def test_layer_selectors_and_beams_take_videos(first):
    model = first("qwen2_5_vl")
    given = video_prompt(model, (("image", "video"),), seed=7)
    with zoo_exp.pruned(model, "fastv", 6, k=2) as pruning:
        answer(model, given, 3)
    assert pruning.layer_counts == [[16, 16, 6, 6]]
    plain = answer(model, given, 3, num_beams=2)[0]
    with zoo_exp.pruned(model, "full") as pruning:
        pruning._engine.force = True
        assert torch.equal(answer(model, given, 3, num_beams=2)[0], plain)
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        answer(model, given, 3, num_beams=2)
    assert pruning.kept_tokens == [8, 8]


@pytest.mark.slow
def test_every_type_with_videos_is_tested_or_listed():
    known = set()
    for name in TYPES:
        module = inspect.getmodule(getattr(transformers, vision_language_types()[name]))
        if any("get_video_features" in vars(c) for _, c in inspect.getmembers(module, inspect.isclass)):
            known.add(name)
    assert known == {*VIDEO_TYPES, *NO_VIDEOS} - {"qwen2_5_vl"}

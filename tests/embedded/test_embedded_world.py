"""The world: scenes are functions of (split, index), questions have one right answer, splits share nothing."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo_exp.embedded import benchmarks, facts
from zoo_exp.embedded.assets import SPLITS, load_assets
from zoo_exp.embedded.questions import FAMILIES, ask, mme_pair
from zoo_exp.embedded.scene import GRID, IMAGE_SIZE, PATCH_SIZE, make_scene
from zoo_exp.embedded.vocabulary import (
    COLOR_NAMES,
    LETTERS,
    SHAPES,
    TOKENS,
    UNK,
    make_tokenizer,
    token_ids,
    words,
)
from zoo_exp.errors import UnknownNameError


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_a_scene_is_a_function_of_split_and_index():
    one, again, other = make_scene("test", 3), make_scene("test", 3), make_scene("test", 4)
    assert np.array_equal(one.pixels, again.pixels)
    assert one.things == again.things
    assert not np.array_equal(one.pixels, other.pixels)


def test_splits_share_no_scene_no_digit_and_no_background():
    scenes = {split: make_scene(split, 0).pixels.tobytes() for split in SPLITS}
    assert len(set(scenes.values())) == len(SPLITS)
    digits = [{scan.tobytes() for scans in load_assets(s).digits for scan in scans} for s in SPLITS]
    backgrounds = [{picture.tobytes() for picture in load_assets(s).backgrounds} for s in SPLITS]
    for kind in (digits, backgrounds):
        assert all(kind[i].isdisjoint(kind[j]) for i in range(3) for j in range(i))


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 10**6), crowded=st.booleans())
def test_things_lie_inside_and_apart_and_labels_agree_with_them(index, crowded):
    scene = make_scene("train", index, crowded)
    covered = np.zeros((IMAGE_SIZE, IMAGE_SIZE), int)
    for thing in scene.things:
        top, left, bottom, right = thing.box
        assert 0 <= top < bottom <= IMAGE_SIZE
        assert 0 <= left < right <= IMAGE_SIZE
        covered[top:bottom, left:right] += 1
    assert covered.max(initial=0) <= 1
    kind, color, centre = scene.patch_labels().reshape(3, GRID, GRID)
    patches = covered.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).sum((1, 3))
    assert not kind[patches == 0].any()  # nothing is claimed where nothing is
    assert (kind[patches >= 60] > 0).all()  # what a thing fills shows it
    assert not color[kind == 0].any()
    assert centre.sum() <= len(scene.things)


@settings(max_examples=40, deadline=None)
@given(family=st.sampled_from(sorted(FAMILIES)), index=st.integers(0, 10**6), seed=st.integers(0, 999))
def test_every_word_is_in_the_vocabulary_and_every_letter_among_the_options(family, index, seed):
    question = ask(family, make_scene("train", index), random.Random(seed))
    if question is None:
        return
    unknown = TOKENS.index(UNK)
    assert unknown not in token_ids(question.prompt)
    assert len(token_ids(question.answer)) == 1  # so that one decoding step tells the answer
    if question.options:
        assert len(set(question.options)) == len(question.options)
        assert LETTERS.index(question.answer) < len(question.options)


def truth(scene, text):
    """An independent reader of the scene: answers questions by brute force, or None where it has no opinion."""
    things = scene.shapes
    fits = lambda thing, noun: set(noun.split()) - {"object"} <= {thing.color, thing.name}  # noqa: E731
    asked = words(text)
    if text.startswith("Is there a "):
        return "yes" if any(fits(t, " ".join(asked[3:-1])) for t in things) else "no"
    if text.startswith("How many "):
        return str(sum(fits(t, asked[2]) for t in things))
    if text.startswith("What color is the "):
        (thing,) = [t for t in things if t.name == asked[4]]
        return thing.color
    if text.startswith("What shape is the "):
        (thing,) = [t for t in things if t.color == asked[4]]
        return thing.name
    if " left or right of " in text or " above or below the " in text:
        middle = asked.index("or")
        start = 3 if asked[middle - 1] in ("left", "above") else 2
        (one,) = [t for t in things if fits(t, " ".join(asked[start - 1 : middle - 1]).replace("the ", ""))]
        tail = " ".join(asked[middle + 2 : -1]).replace("of ", "").replace("the ", "")
        (two,) = [t for t in things if fits(t, tail)]
        if "left" in asked:
            return "left" if one.x < two.x else "right"
        return "above" if one.y < two.y else "below"
    return None


@pytest.mark.parametrize("family", ["pope", "gqa", "vqav2", "mmbench", "seedbench"])
def test_answers_agree_with_a_brute_force_reader(family):
    checked = 0
    for index in range(150):
        scene = make_scene("train", index)
        question = ask(family, scene, random.Random(index))
        if question is None or (expected := truth(scene, question.text)) is None:
            continue
        given_answer = (
            question.options[LETTERS.index(question.answer)] if question.options else question.answer
        )
        assert given_answer == expected, (index, question)
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("topic", ["existence", "count", "color", "position", "OCR"])
def test_mme_asks_pairs_of_yes_and_no(topic):
    pairs = [mme_pair(make_scene("test", i), random.Random(i), topic) for i in range(30)]
    found = [pair for pair in pairs if pair]
    assert len(found) >= 8
    assert all((yes.answer, no.answer) == ("yes", "no") and yes.text != no.text for yes, no in found)


def test_sides_are_asked_away_from_the_middle_only():
    for index in range(60):
        scene = make_scene("test", index)
        for thing in scene.shapes:
            if facts.clear_of_midlines(thing):
                assert abs(thing.x - IMAGE_SIZE / 2) >= facts.MIDLINE_MARGIN


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_benchmarks_are_the_same_every_time_and_know_their_bounds(family):
    rows = benchmarks.rows(family, "test", 12)
    assert len(rows) == 12
    again = benchmarks.rows(family, "test", 12)
    strip = lambda row: {k: v for k, v in row.items() if k not in ("image", "image_1")}  # noqa: E731
    assert [strip(r) for r in rows] == [strip(r) for r in again]
    assert strip(rows[0]) != strip(benchmarks.rows(family, "validation", 1)[0])


def test_mmbench_rotates_every_question_once_per_option():
    rows = benchmarks.rows("mmbench", "test", 40)
    groups = {}
    for row in rows:
        groups.setdefault(row["index"] % 1_000_000, []).append(row)
    for group in groups.values():
        right = {row[row["answer"]] for row in group}
        assert len(right) == 1
        assert len({row["answer"] for row in group}) == len(group) == 4


def test_unknown_family_and_split_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'gqa'"):
        benchmarks.rows("gqqa")
    with pytest.raises(UnknownNameError, match="validation"):
        benchmarks.rows("gqa", "train")


def test_the_tokenizer_splits_as_training_does(tokenizer):
    for family in FAMILIES:
        question = ask(family, make_scene("train", 11), random.Random(5))
        if question is not None:
            assert tokenizer(question.prompt, add_special_tokens=False).input_ids == token_ids(
                question.prompt
            )
    assert tokenizer("Is it?").input_ids[0] == tokenizer.bos_token_id


def test_the_vocabulary_has_no_word_twice():
    assert len(set(TOKENS)) == len(TOKENS)
    assert set(SHAPES) | set(COLOR_NAMES) <= set(TOKENS)


def test_the_image_of_one_scene_is_saved_in_its_own_size(tmp_path, capsys):
    from zoo_exp.cli import main

    photo = tmp_path / "photo.png"
    assert main(["embedded", "samples", "--view", "world2", "--scene", "1", "--out", str(photo)]) == 0
    with Image.open(photo) as image:
        assert (image.size, image.mode) == ((96, 96), "RGB")
    assert capsys.readouterr().out.startswith(f"{photo}: Is there ")
    assert main(["embedded", "samples", "--scene", "-1", "--out", str(photo)]) == 2
    assert main(["embedded", "samples", "--scene", "0", "--out", str(tmp_path / "photo.txt")]) == 2
    assert "give 0 to " in capsys.readouterr().err

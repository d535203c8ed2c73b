"""World 2: scenes are functions of (split, index, size), questions have one right answer, splits share nothing."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp import tasks
from zoo_exp.embedded.vocabulary import COLOR_NAMES, LETTERS, TOKENS, UNK
from zoo_exp.embedded.world2 import rows, truths
from zoo_exp.embedded.world2.asking import FAMILIES_2, MME_TOPICS_2, ask_2, mme_pair_2
from zoo_exp.embedded.world2.layout import KINDS, PATCH, make_scene_2
from zoo_exp.embedded.world2.lexicon import (
    CATEGORIES,
    CATEGORY_OF,
    TOKEN_ID_2,
    TOKENS_2,
    make_tokenizer_2,
    token_ids_2,
)
from zoo_exp.embedded.world2.material import SPLITS_2, load_material
from zoo_exp.embedded.world2.question_packs import contents, dense_batch
from zoo_exp.errors import UnknownNameError
from zoo_exp.tasks import data

SIZES = st.sampled_from([(96, 96), (192, 192), (64, 160), (72, 104)])


def test_a_scene_is_a_function_of_split_index_and_size():
    one, again, other = (make_scene_2("test", i) for i in (3, 3, 4))
    assert np.array_equal(one.pixels, again.pixels)
    assert one.things == again.things
    assert not np.array_equal(one.pixels, other.pixels)
    assert make_scene_2("test", 3, 64, 160).pixels.shape == (64, 160, 3)


def test_a_scene_has_more_things_than_the_smallest_budget_has_tokens():
    counts = [len(make_scene_2("test", i).things) for i in range(40)]
    assert min(counts) >= 10
    assert 12 <= np.mean(counts) <= 16
    assert np.mean([len(make_scene_2("test", i, 192, 192).things) for i in range(10)]) >= 24


def test_splits_share_no_scene_no_scan_and_no_background():
    scenes = {make_scene_2(split, 0).pixels.tobytes() for split in SPLITS_2}
    assert len(scenes) == len(SPLITS_2)
    digits = [{scan.tobytes() for scans in load_material(s).digits for scan in scans} for s in SPLITS_2]
    backgrounds = [{image.tobytes() for image in load_material(s).backgrounds} for s in SPLITS_2]
    assert all(min(map(len, load_material(s).digits)) > 0 for s in SPLITS_2)
    for kind in (digits, backgrounds):
        assert all(kind[i].isdisjoint(kind[j]) for i in range(4) for j in range(i))


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 10**6), size=SIZES)
def test_things_lie_inside_and_apart_and_labels_agree_with_them(index, size):
    height, width = size
    scene = make_scene_2("train", index, height, width)
    covered = np.zeros(size, int)
    for thing in scene.things:
        top, left, bottom, right = thing.box
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        covered[top:bottom, left:right] += 1
    assert covered.max(initial=0) <= 1
    labels = scene.patch_labels()
    kind, color, centre = labels.reshape(3, height // PATCH, width // PATCH)
    patches = covered.reshape(height // PATCH, PATCH, width // PATCH, PATCH).sum((1, 3))
    assert not kind[patches == 0].any()
    assert (kind[patches >= 60] > 0).all()
    assert not color[kind == 0].any()
    assert centre.sum() <= len(scene.things)
    there = contents(labels)
    names = [*KINDS, *COLOR_NAMES]
    shown = {name for name, present in zip(names, there, strict=True) if present}
    assert shown <= {thing.name for thing in scene.things} | {thing.color for thing in scene.things}


def test_tiles_of_a_dense_batch_are_parts_of_one_scene():
    batch = dense_batch("train", 5, 6, tile_share=2 / 3)
    assert batch.pixels.shape == (6, 3, 96, 96)
    scene = make_scene_2("train", 5, 192, 192)
    whole = scene.patch_labels().reshape(3, 24, 24)
    assert np.array_equal(batch.patches[3].numpy().reshape(3, 12, 12), whole[:, :12, 12:])
    assert np.array_equal(batch.patches[4].numpy().reshape(3, 12, 12), whole[:, 12:, :12])


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES_2)),
    index=st.integers(0, 10**6),
    seed=st.integers(0, 999),
    size=SIZES,
)
def test_every_word_is_in_the_vocabulary_and_every_letter_among_the_options(family, index, seed, size):
    question = ask_2(family, make_scene_2("train", index, *size), random.Random(seed))
    if question is None:
        return
    assert TOKEN_ID_2[UNK] not in token_ids_2(question.prompt)
    assert len(token_ids_2(question.answer)) == 1
    assert token_ids_2(question.answer) != [TOKEN_ID_2[UNK]]
    if question.options:
        assert len(set(question.options)) == len(question.options)
        assert LETTERS.index(question.answer) < len(question.options)


def matches(scene, phrase):
    """Things that a phrase without a side can mean, by brute force."""
    nouns = set(phrase.split()) - {"object", "objects", "the", "a", "an"}
    found = []
    for thing in scene.things:
        names = {thing.name, thing.color, CATEGORY_OF.get(thing.name)}
        if thing.kind in ("word", "digit"):
            names = {thing.kind}
        if nouns <= names:
            found.append(thing)
    return found


def on_side(thing, words, other):
    return {
        "left of": thing.x < other.x,
        "right of": thing.x > other.x,
        "above": thing.y < other.y,
        "below": thing.y > other.y,
    }[words]


def truth(scene, text):
    """An independent reader of the scene, or None where it has no opinion."""
    text = text.rstrip("?")
    if text.startswith("Is there "):
        return "yes" if matches(scene, text.removeprefix("Is there ")) else "no"
    if text.startswith("How many "):
        return str(len(matches(scene, text.removeprefix("How many "))))
    for words in ("left or right of", "above or below"):
        if f" {words} the " in text:
            first, second = text.removeprefix("Is the ").split(f" {words} the ")
            (one,), (two,) = matches(scene, first), matches(scene, second)
            if words.startswith("left"):
                return "left" if one.x < two.x else "right"
            return "above" if one.y < two.y else "below"
    asked, _, phrase = text.removeprefix("What ").partition(" is ")
    kinds = {"color": "shape", "shape": "shape", "digit": "digit"} | dict.fromkeys(CATEGORIES, "pictogram")
    if not text.startswith("What ") or asked not in kinds or phrase.startswith(("written", "on the ")):
        return None
    noun, things = ("the object" if asked == "shape" else asked), []
    for words in truths.DIRECTIONS:
        if f" {words} the " in f" {phrase}":
            before, anchor = f" {phrase}".split(f" {words} the ")
            (other,) = matches(scene, anchor)
            things = [t for t in matches(scene, before or noun) if on_side(t, words, other)]
            break
    else:
        things = matches(scene, asked if phrase == "shown" else phrase)
    (thing,) = [t for t in things if t.kind == kinds[asked]]
    return thing.color if asked == "color" else thing.name


@pytest.mark.parametrize("family", ["pope", "gqa", "vqav2", "mmbench", "seedbench"])
def test_answers_agree_with_a_brute_force_reader(family):
    checked, hops = 0, 0
    for index in range(150):
        scene = make_scene_2("train", index)
        question = ask_2(family, scene, random.Random(index))
        if question is None or (expected := truth(scene, question.text)) is None:
            continue
        answer = question.options[LETTERS.index(question.answer)] if question.options else question.answer
        assert answer == expected, (index, question)
        checked += 1
        hops += question.topic == "two-hop"
    assert checked > 30
    assert family != "gqa" or hops > 15


@pytest.mark.parametrize("topic", MME_TOPICS_2)
def test_mme_asks_pairs_of_yes_and_no(topic):
    pairs = [mme_pair_2(make_scene_2("test", i), random.Random(i), topic) for i in range(30)]
    found = [pair for pair in pairs if pair]
    assert len(found) >= 8
    assert all((yes.answer, no.answer) == ("yes", "no") and yes.text != no.text for yes, no in found)


def test_the_vocabulary_continues_world_1s():
    assert TOKENS_2[: len(TOKENS)] == TOKENS
    assert len(set(TOKENS_2)) == len(TOKENS_2)


@pytest.mark.parametrize("qwen", [False, True])
def test_the_tokenizer_splits_as_training_does(qwen):
    tokenizer = make_tokenizer_2(qwen)
    for family in FAMILIES_2:
        question = ask_2(family, make_scene_2("train", 11), random.Random(5))
        if question is not None:
            ids = tokenizer(question.prompt, add_special_tokens=False).input_ids
            assert ids == token_ids_2(question.prompt)
    assert tokenizer("Is it?").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("view", rows.VIEWS)
@pytest.mark.parametrize("family", sorted(FAMILIES_2))
def test_benchmarks_are_the_same_every_time(family, view):
    found, again = (rows.rows_2(family, "test", 8, view) for _ in range(2))
    assert len(found) == 8
    strip = lambda row: {k: v for k, v in row.items() if k not in ("image", "image_1")}  # noqa: E731
    assert [strip(r) for r in found] == [strip(r) for r in again]
    for split in ("validation", "confirm"):
        assert strip(found[0]) != strip(rows.rows_2(family, split, 1, view)[0])


def test_views_have_their_sizes_and_halves_are_asked_at_the_usual_one():
    assert rows.size_of("world2_tiles", "test", 0, "gqa") == (192, 192)
    sizes = {rows.size_of("world2_sizes", "test", i, "gqa") for i in range(40)}
    assert (96, 96) in sizes
    assert len(sizes) > 10
    assert all(height * width <= rows.LARGEST for height, width in sizes)
    assert {rows.size_of("world2_sizes", "test", i, "mme") for i in range(40)} == {(96, 96)}


@pytest.mark.parametrize(
    "name", ["world2_gqa", "world2_tiles_mme_confirm", "world2_sizes_textvqa_validation"]
)
def test_tasks_of_world_2_read_its_rows(name):
    task = tasks.get(name)
    read = data.load(task, limit=8)
    assert len(read) == 8 * (2 if task.family == "mme" else 1)  # a limit counts pairs
    assert TOKEN_ID_2[UNK] not in token_ids_2(task.prompt(read[0], "embedded"))


def test_unknown_names_are_told():
    with pytest.raises(UnknownNameError, match="Did you mean 'gqa'"):
        rows.rows_2("gqqa")
    with pytest.raises(UnknownNameError, match="confirm"):
        rows.rows_2("gqa", "train")
    with pytest.raises(UnknownNameError, match="world2_tiles"):
        rows.rows_2("gqa", view="world2_tile")

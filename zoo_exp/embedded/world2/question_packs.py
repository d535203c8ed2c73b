"""Training batches of world 2: an image with about thirty questions packed behind one run of visual tokens."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_exp.embedded.packing import NO_TARGET, normalise
from zoo_exp.embedded.vocabulary import COLOR_NAMES
from zoo_exp.embedded.world2.asking import FAMILIES_2, ask_2
from zoo_exp.embedded.world2.layout import BASE_SIDE, KINDS, N_CONTENTS_2, PATCH, Scene2, make_scene_2
from zoo_exp.embedded.world2.lexicon import ANSWER_MARK, END_MARK, TOKEN_ID_2, token_ids_2

# How often a family is asked: what is learnt slowly is asked more.
FAMILY_WEIGHTS_2: Mapping[str, float] = {
    **{"pope": 1.0, "gqa": 3.2, "vqav2": 3.2, "textvqa": 0.9, "mmbench": 1.1},
    **{"seedbench": 3.4, "scienceqa": 0.7, "mme": 2.0, "mmmu": 1.6},
}

HARD_TOPICS = frozenset(
    {"number", "count", "instances_counting", "Statistics", "relation", "two-hop", "instance_location"}
)
"""Topics that are learnt last: how many there are, and where things are."""

PLACED = ("seedbench", "mme")  # families that ask for halves of the image


class TextBatch(NamedTuple):
    """Packed questions of B images, L tokens each.

    Attributes:
        ids: text tokens [B, L].
        segment: number of the question that a token belongs to [B, L], -1 for padding.
        position: place within its question [B, L].
        target: next token where an answer is learnt [B, L], else NO_TARGET.
        family: number of the family where the answer's first token is learnt [B, L], else -1.
    """

    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    family: Tensor


class DenseBatch(NamedTuple):
    """Images with what every patch shows.

    Attributes:
        pixels: normalised images [B, 3, H, W].
        patches: kind, colour, centre of every patch [B, 3, N].
        contents: what an image holds at all [B, N_CONTENTS_2].
    """

    pixels: Tensor
    patches: Tensor
    contents: Tensor


def pack_questions(
    scenes: Sequence[Scene2],
    seeds: Sequence[str],
    length: int,
    questions: int,
    weights: Mapping[str, float] = FAMILY_WEIGHTS_2,
    easy_share: float = 1.0,
) -> TextBatch:
    """Up to `questions` questions about each scene, in `length` tokens each.

    Args:
        scenes: what is asked about.
        seeds: one seed of the questions for each scene.
        length: text tokens per scene.
        questions: questions tried per scene.
        weights: how often each family is asked.
        easy_share: share of the questions that stay whose topic is not hard.
    """
    text = np.zeros((5, len(scenes), length), np.int64)
    text[1], text[3], text[4] = -1, NO_TARGET, -1
    for row, (scene, seed) in enumerate(zip(scenes, seeds, strict=True)):
        _pack_row(text[:, row], scene, random.Random(seed), questions, weights, easy_share)
    return TextBatch(*(torch.from_numpy(part) for part in text))


def _pack_row(
    text: NDArray[np.int64],
    scene: Scene2,
    rng: random.Random,
    questions: int,
    weights: Mapping[str, float],
    easy_share: float,
) -> None:
    """Fill one scene's five lines with questions until the tokens are used up."""
    names = list(FAMILIES_2)
    asked: set[str] = set()
    used, length = 0, text.shape[1]
    ids, segment, position, target, first = text
    for family in rng.choices(names, [weights[name] for name in names], k=questions):
        question = ask_2(family, scene, rng)
        if question is None or question.prompt in asked:
            continue
        if easy_share < 1 and question.topic not in HARD_TOPICS and rng.random() >= easy_share:
            continue
        asked.add(question.prompt)
        tokens = [*token_ids_2(question.prompt), ANSWER_MARK, TOKEN_ID_2[question.answer]]
        stop = used + len(tokens)
        if stop > length:
            continue
        ids[used:stop] = tokens
        segment[used:stop] = len(asked)
        position[used:stop] = range(len(tokens))
        target[stop - 2], target[stop - 1] = tokens[-1], END_MARK
        first[stop - 2] = names.index(family)
        used = stop


def families_at(usual_size: bool) -> dict[str, float]:
    """How often each family is asked: halves only about images of the usual size.

    A causal decoder reads its tokens before it knows how large the image is, so that "the left half" of another
    size is a harder question.
    """
    return {name: 0.0 if name in PLACED and not usual_size else w for name, w in FAMILY_WEIGHTS_2.items()}


def contents(patches: NDArray[np.int64]) -> NDArray[np.float32]:
    """Which kinds and colours an image's patches show [N_CONTENTS_2], from its labels [3, N]."""
    present = np.zeros(N_CONTENTS_2, np.float32)
    kinds, colors = np.unique(patches[0]), np.unique(patches[1])
    present[kinds[kinds > 0] - 1] = 1
    present[len(KINDS) - 1 + colors[colors > 0]] = 1
    return present


def dense_batch(split: str, first: int, images: int, tile_share: float = 1 / 3) -> DenseBatch:
    """Images of 96 px with their dense labels; a share of them are tiles of 192 px scenes, where edges cut things.

    Args:
        split: the split.
        first: number of the first scene; `images` numbers are used.
        images: how many.
        tile_share: share of tiles, rounded to whole scenes of four tiles.
    """
    tiles = round(images * tile_share / 4) * 4
    pixels, patches = [], []
    for i in range(images - tiles):
        scene = make_scene_2(split, first + i)
        pixels.append(scene.pixels)
        patches.append(scene.patch_labels())
    side, cells = BASE_SIDE, BASE_SIDE // PATCH
    for i in range(tiles // 4):
        scene = make_scene_2(split, first + i, 2 * side, 2 * side)
        labels = scene.patch_labels().reshape(3, 2 * cells, 2 * cells)
        for row in range(2):
            for col in range(2):
                pixels.append(scene.pixels[row * side : (row + 1) * side, col * side : (col + 1) * side])
                part = labels[:, row * cells : (row + 1) * cells, col * cells : (col + 1) * cells]
                patches.append(part.reshape(3, -1))
    return DenseBatch(
        normalise(np.stack(pixels)),
        torch.from_numpy(np.stack(patches)),
        torch.from_numpy(np.stack([contents(labels) for labels in patches])),
    )


assert len(KINDS) + len(COLOR_NAMES) == N_CONTENTS_2

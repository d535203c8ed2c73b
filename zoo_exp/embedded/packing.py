"""Training batches: a picture with about twenty questions packed behind one run of visual tokens.

Questions of one picture do not see each other (segments), and each starts at the same position, so one
vision pass and one prefix serve them all.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo_exp.embedded.questions import FAMILIES, ask
from zoo_exp.embedded.scene import GRID, N_CONTENTS, make_scene
from zoo_exp.embedded.vocabulary import ASSISTANT, EOS, TOKEN_ID, token_ids

# CLIP's channel statistics; the image processor that is saved with the weights has the same ones.
MEAN = (0.481, 0.458, 0.408)
STD = (0.269, 0.261, 0.276)
NO_TARGET = -100

# How often a family is asked: what is learnt slowly is asked more.
FAMILY_WEIGHTS: Mapping[str, float] = {
    **{"pope": 1.0, "gqa": 2.6, "vqav2": 2.4, "textvqa": 1.4, "mmbench": 1.3},
    **{"seedbench": 2.2, "scienceqa": 1.0, "mme": 2.2, "mmmu": 1.5},
}


class PackedBatch(NamedTuple):
    """B pictures with their dense labels and packed questions of L tokens in all.

    Attributes:
        pixels: normalised pictures [B, 3, 96, 96].
        patches: kind, colour, centre of every patch [B, 3, N].
        contents: what the picture holds at all [B, N_CONTENTS].
        ids: text tokens [B, L].
        segment: number of the question that a token belongs to [B, L], -1 for padding.
        position: place within its question [B, L].
        target: next token where an answer is learnt [B, L], else NO_TARGET.
        family: number of the family where the answer's first token is learnt [B, L], else -1.
    """

    pixels: Tensor
    patches: Tensor
    contents: Tensor
    ids: Tensor
    segment: Tensor
    position: Tensor
    target: Tensor
    family: Tensor


def normalise(pixels: np.ndarray) -> Tensor:
    """Pictures [B, H, W, 3] in 0 to 255 as the vision tower wants them [B, 3, H, W]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def make_batch(split: str, indices: range, length: int, questions: int) -> PackedBatch:
    """Scenes `indices` of a split with up to `questions` questions in `length` tokens each.

    With `questions=0` the scenes are crowded and nothing is asked: the dense first stage.
    """
    size = len(indices)
    pixels = []
    patches = np.zeros((size, 3, GRID * GRID), np.int64)
    contents = np.zeros((size, N_CONTENTS), np.float32)
    text = np.zeros((5, size, length), np.int64)  # ids, segment, position, target, family
    text[1], text[3], text[4] = -1, NO_TARGET, -1
    for row, index in enumerate(indices):
        scene = make_scene(split, index, crowded=questions == 0)
        pixels.append(scene.pixels)
        patches[row], contents[row] = scene.patch_labels(), scene.contents()
        if questions:
            _pack(text[:, row], scene, random.Random(f"questions/{split}/{index}"), questions)
    return PackedBatch(
        normalise(np.stack(pixels)),
        torch.from_numpy(patches),
        torch.from_numpy(contents),
        *(torch.from_numpy(part) for part in text),
    )


def _pack(text: np.ndarray, scene, rng: random.Random, questions: int) -> None:  # noqa: ANN001
    """Fill one row's five text lines with questions until the tokens are used up."""
    names = list(FAMILIES)
    asked: set[str] = set()
    used, length = 0, text.shape[1]
    for family in rng.choices(names, [FAMILY_WEIGHTS[name] for name in names], k=questions):
        question = ask(family, scene, rng)
        if question is None or question.prompt in asked:
            continue
        asked.add(question.prompt)
        prompt = [*token_ids(question.prompt), TOKEN_ID[ASSISTANT]]
        answer = [*token_ids(question.answer), TOKEN_ID[EOS]]
        tokens = prompt + answer[:-1]  # the end mark is only ever a target
        stop = used + len(tokens)
        if stop > length:
            continue
        ids, segment, position, target, first = text
        ids[used:stop] = tokens
        segment[used:stop] = len(asked)
        position[used:stop] = range(len(tokens))
        target[used + len(prompt) - 1 : stop] = answer
        first[used + len(prompt) - 1] = names.index(family)
        used = stop

"""Accuracy per question family on held-out scenes, with all visual tokens and with none: the end of training.

A quick look through the packed forward (first answer token, greedy). The published table comes from the
evaluation loop, through `generate` and the benchmarks' own scoring; a test holds the two together.
"""

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch

from zoo_exp.embedded.benchmarks import ROWS, asked, held_out_scene
from zoo_exp.embedded.packed_forward import text_forward, vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.questions import FAMILIES, Question
from zoo_exp.embedded.vocabulary import ASSISTANT, TOKEN_ID, token_ids

IMAGES_PER_BATCH = 25


@torch.inference_mode()
def family_accuracy(
    model: Any, split: str = "test", rows: int = ROWS, advance: Callable[[], None] = lambda: None
) -> dict[str, tuple[float, float, int]]:
    """Share of right answers per family with all visual tokens, with none, and the number of questions.

    Args:
        model: a `LlavaForConditionalGeneration` of the embedded shape, in evaluation mode.
        split: validation or test.
        rows: questions per family.
        advance: called after each family, for a progress bar.
    """
    result = {}
    for family in FAMILIES:
        right = np.zeros(2)
        for batch in _batches(islice(asked(family, split), rows)):
            right += _right(model, split, batch)
        result[family] = (right[0] / rows, right[1] / rows, rows)
        advance()
    return result


def _batches(questions: Iterator[tuple[int, int, Question]]) -> Iterator[list[tuple[int, list[Question]]]]:
    """Scenes with their questions, some scenes at a time."""
    scenes = (
        (index, [q for _, _, q in group]) for index, group in groupby(questions, key=lambda item: item[0])
    )
    while batch := list(islice(scenes, IMAGES_PER_BATCH)):
        yield batch


def _right(model: Any, split: str, batch: list[tuple[int, list[Question]]]) -> np.ndarray:
    """Right answers with all visual tokens and with none [2]."""
    packed = [_pack(questions) for _, questions in batch]
    length = max(len(ids) for ids, *_ in packed)
    ids, segment, position = (torch.zeros(len(batch), length, dtype=torch.long) for _ in range(3))
    segment -= 1
    row, column, answer = [], [], []
    for number, (tokens, segments, positions, ends) in enumerate(packed):
        ids[number, : len(tokens)] = torch.tensor(tokens)
        segment[number, : len(tokens)] = torch.tensor(segments)
        position[number, : len(tokens)] = torch.tensor(positions)
        row += [number] * len(ends)
        column += ends
        answer += [TOKEN_ID[question.answer] for question in batch[number][1]]
    inner = model.model
    pixels = np.stack([held_out_scene(split, index).pixels for index, _ in batch])
    features, _ = vision_forward(inner.vision_tower, normalise(pixels))
    projected = inner.multi_modal_projector(features)
    right = []
    for visual in (projected, projected[:, :0]):
        hidden = text_forward(inner.language_model, visual, ids, segment, position, shift=0)
        right.append(float((model.lm_head(hidden[row, column]).argmax(-1) == torch.tensor(answer)).sum()))
    return np.array(right)


def _pack(questions: list[Question]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, segments, positions, and where each question ends."""
    ids: list[int] = []
    segments: list[int] = []
    positions: list[int] = []
    ends = []
    for number, question in enumerate(questions):
        prompt = [*token_ids(question.prompt), TOKEN_ID[ASSISTANT]]
        ids += prompt
        segments += [number] * len(prompt)
        positions += range(len(prompt))
        ends.append(len(ids) - 1)
    return ids, segments, positions, ends

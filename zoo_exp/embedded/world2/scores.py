"""Accuracy per family on held-out scenes through the packed forward: the end of training, and quick looks.

An arm says which visual tokens an image keeps. The published tables come from the evaluation, through `generate` and
the benchmarks' own scoring; a test holds the two together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_exp.embedded.packed_forward import prefixed_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.questions import Question
from zoo_exp.embedded.world2.asking import FAMILIES_2
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, Scene2
from zoo_exp.embedded.world2.learners import Learner
from zoo_exp.embedded.world2.lexicon import ANSWER_MARK, TOKEN_ID_2, token_ids_2
from zoo_exp.embedded.world2.qwen import QwenLearner
from zoo_exp.embedded.world2.qwen_forward import merge_cells, qwen_text_forward
from zoo_exp.embedded.world2.rows import asked_2
from zoo_exp.embedded.world2.tiles import NextLearner, pack_views, views

IMAGES_PER_BATCH = 16
VIEW_OF = {"embedded": "world2", "embedded_next": "world2_tiles", "embedded_qwen": "world2_sizes"}

Numbered = Sequence[tuple[int, Scene2]]
Arm = Callable[[Numbered, Tensor], Tensor | None]
"""Numbered scenes of one size and their visual tokens [B, N, D] to the numbers of the tokens that stay [B, K]; None
keeps all."""


@dataclass
class Scores:
    """Right answers of one arm.

    Attributes:
        right: 0 or 1 per question, in the same order for every arm.
        family: each question's family.
        topic: each question's topic.
        scene: each question's scene.
    """

    right: list[int] = field(default_factory=list)
    family: list[str] = field(default_factory=list)
    topic: list[str] = field(default_factory=list)
    scene: list[int] = field(default_factory=list)

    def by_family(self) -> dict[str, tuple[float, int]]:
        """Share of right answers and number of questions of each family."""
        found = {}
        for family in FAMILIES_2:
            hits = [hit for hit, name in zip(self.right, self.family, strict=True) if name == family]
            if hits:
                found[family] = (sum(hits) / len(hits), len(hits))
        return found

    def average(self) -> float:
        """Mean over the families."""
        shares = [share for share, _ in self.by_family().values()]
        return sum(shares) / len(shares)


def keep_all(scenes: Numbered, visual: Tensor) -> Tensor | None:
    """The arm `full`."""
    return None


def keep_none(scenes: Numbered, visual: Tensor) -> Tensor:
    """The arm `blind`."""
    return torch.empty(len(visual), 0, dtype=torch.long)


def keep_random(count: int, seed: int = 0) -> Arm:
    """An arm that keeps a random `count` of an image's tokens."""

    def arm(scenes: Numbered, visual: Tensor) -> Tensor:
        kept = []
        for index, _ in scenes:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
            kept.append(torch.randperm(visual.shape[1], generator=generator)[:count].sort().values)
        return torch.stack(kept)

    return arm


@torch.inference_mode()
def measure(
    learner: Learner,
    arms: Mapping[str, Arm],
    split: str = "test",
    rows: int = 500,
    view: str | None = None,
    original: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Scores]:
    """Answer held-out questions under every arm; the vision encoder sees each image once.

    Args:
        learner: the model.
        arms: name and what it keeps.
        split: validation, test or confirm.
        rows: questions per family.
        view: which images; None takes the model's own.
        original: tokens that stay keep their positions (Qwen's always do).
        advance: called with the number of questions done, for a progress bar.
    """
    learner.eval()
    view = view or VIEW_OF[learner.plan.model]
    result = {name: Scores() for name in arms}
    for batch in _batches(_by_scene(split, rows, view)):
        numbered = [(index, scene) for index, scene, _ in batch]
        scenes = [scene for _, scene in numbered]
        visual = visual_tokens(learner, scenes)
        packed = [_pack([question for _, question in asked]) for _, _, asked in batch]
        ids, segment, position, ends = _stack(packed)
        answers = [[TOKEN_ID_2[q.answer] for _, q in asked] for _, _, asked in batch]
        for name, arm in arms.items():
            kept = arm(numbered, visual)
            words = _answer(learner, scenes[0], visual, kept, (ids, segment, position), ends, original)
            for row, (index, _, asked) in enumerate(batch):
                for column, (family, question) in enumerate(asked):
                    scores = result[name]
                    scores.right.append(int(words[row, column] == answers[row][column]))
                    scores.family.append(family)
                    scores.topic.append(question.topic)
                    scores.scene.append(index)
        advance(sum(len(asked) for _, _, asked in batch))
    return result


def visual_tokens(learner: Learner, scenes: list[Scene2]) -> Tensor:
    """Projected tokens of scenes of one size [B, N, D], in the order of the stock class."""
    inner = learner.model.model
    if isinstance(learner, NextLearner):
        shape = scenes[0].height // BASE_SIDE, scenes[0].width // BASE_SIDE
        pixels = normalise(np.concatenate([views(scene.pixels) for scene in scenes]))
        features, _ = learner.encode(pixels.to(learner.device))
        projected = inner.multi_modal_projector(features).unflatten(0, (len(scenes), -1))
        return pack_views(projected, inner.image_newline, shape)
    pixels = normalise(np.stack([scene.pixels for scene in scenes])).to(learner.device)
    features, _ = learner.encode(pixels)
    if isinstance(learner, QwenLearner):
        return merge_cells(inner.visual, features)
    return inner.multi_modal_projector(features)


def _answer(
    learner: Learner,
    scene: Scene2,
    visual: Tensor,
    kept: Tensor | None,
    text: tuple[Tensor, Tensor, Tensor],
    ends: Tensor,
    original: bool,
) -> Tensor:
    """First answer token of every question [B, R]."""
    llm, total = learner.model.model.language_model, visual.shape[1]
    text = tuple(part.to(visual.device) for part in text)  # type: ignore[assignment]
    if kept is not None:
        kept = kept.to(visual.device)
        visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[2]))
    rows = ends.to(visual.device)
    if isinstance(learner, QwenLearner):
        grid = scene.height // PATCH, scene.width // PATCH
        hidden, _ = qwen_text_forward(
            llm, visual, grid, text, 0, kept if visual.shape[1] else None, rows=rows
        )
    else:
        places = kept if original and kept is not None else None
        shift = total - visual.shape[1] if places is not None else 0
        hidden, _ = prefixed_forward(llm, visual, text, shift, places, rows=rows)
    return learner.model.lm_head(hidden).argmax(-1).cpu()


Asked = list[tuple[str, Question]]


def _by_scene(split: str, rows: int, view: str) -> list[tuple[int, Scene2, Asked]]:
    """Scenes with the questions of all families about them."""
    found: dict[tuple[int, int, int], tuple[int, Scene2, Asked]] = {}
    for family in FAMILIES_2:
        for index, _, scene, question in islice(asked_2(family, split, view), rows):
            key = (scene.height, scene.width, index)
            found.setdefault(key, (index, scene, []))[2].append((family, question))
    return [found[key] for key in sorted(found)]


def _batches(scenes: list[tuple[int, Scene2, Asked]]) -> Iterator[list[tuple[int, Scene2, Asked]]]:
    """Some scenes of one size at a time."""
    batch: list[tuple[int, Scene2, Asked]] = []
    for item in scenes:
        if batch and (len(batch) == IMAGES_PER_BATCH or batch[0][1].pixels.shape != item[1].pixels.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _pack(questions: list[Question]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, segments, positions, and where each question ends."""
    ids: list[int] = []
    segments: list[int] = []
    positions: list[int] = []
    ends = []
    for number, question in enumerate(questions):
        prompt = [*token_ids_2(question.prompt), ANSWER_MARK]
        ids += prompt
        segments += [number] * len(prompt)
        positions += range(len(prompt))
        ends.append(len(ids) - 1)
    return ids, segments, positions, ends


def _stack(packed: list[tuple[list[int], ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One row per scene; missing questions point at token 0."""
    length, most = max(len(p[0]) for p in packed), max(len(p[3]) for p in packed)
    text = torch.zeros(3, len(packed), length, dtype=torch.long)
    text[1] = -1
    ends = torch.zeros(len(packed), most, dtype=torch.long)
    for row, (ids, segments, positions, stops) in enumerate(packed):
        for line, values in enumerate((ids, segments, positions)):
            text[line, row, : len(values)] = torch.tensor(values)
        ends[row, : len(stops)] = torch.tensor(stops)
    return text[0], text[1], text[2], ends


def summary(result: Mapping[str, Scores]) -> dict[str, Any]:
    """Share of right answers by family and on average, for a JSON file."""
    return {
        name: {
            "average": scores.average(),
            **{family: {"right": share, "n": n} for family, (share, n) in scores.by_family().items()},
        }
        for name, scores in result.items()
    }

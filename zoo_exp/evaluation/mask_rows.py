"""Kept-token masks of the first questions of each task, for galleries and W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.evaluation.sample_batches import Batch, Sample
from zoo_exp.files import replaced
from zoo_exp.models.answering import Generated
from zoo_exp.models.seen import seen
from zoo_exp.runs import folder
from zoo_exp.runs.records import MaskArm, MaskRow, Record
from zoo_exp.tasks.base import Task

QUESTIONS = 12  # of each task: enough to find one on which arms disagree


def wanted(sample: Sample, images: Sequence[VisualTokens]) -> bool:
    """Whether a question gets a mask: the task's first ones do, where they show one image."""
    return sample.number < QUESTIONS and len(images) == 1


def shown(
    samples: Sequence[Sample], tokens: Sequence[Sequence[VisualTokens]], generated: Generated
) -> dict[str, list[Selection]]:
    """Sample id -> the selections that its mask shows, by image; for a layer selector the tokens at its last layer.

    Those take time to work out, so this happens only if some sample of the batch gets a mask.
    """
    selections = generated.selected.selections
    masks = [wanted(*pair) for pair in zip(samples, tokens, strict=True)]
    if generated.layers is not None and any(masks):
        selections = [
            [Selection(torch.tensor(row, dtype=torch.long))] if mask else chosen
            for row, mask, chosen in zip(generated.layers.left(), masks, selections, strict=True)
        ]
    return {sample.id: chosen for sample, chosen in zip(samples, selections, strict=True)}


def make(
    run: Path,
    task: Task,
    batch: Batch,
    tokens: Sequence[Sequence[VisualTokens]],
    records: Sequence[Record],
    selections: Sequence[Mapping[str, Sequence[Selection]]],
    processor: Any = None,
) -> list[MaskRow]:
    """Mask rows of those samples of a batch that are among the task's first; their images are written to masks/.

    Args:
        run: the run folder.
        task: the task.
        batch: its questions, and what the processor made of their images.
        tokens: visual tokens per sample and image.
        records: the batch's records, all arms.
        selections: per arm, sample id -> selection per image.
        processor: knows how pixels were normalised.
    """
    rows, place = [], 0
    for sample, images in zip(batch.samples, tokens, strict=True):
        number, place = place, place + len(images)
        mine = [r for r in records if r.sample_id == sample.id and r.not_applicable is None]
        if not wanted(sample, images) or not mine:
            continue
        view = seen(images[0], task.images(sample.doc)[0], batch.inputs, number, processor)
        if view is None:
            continue
        by_arm = [view.marked(arm[sample.id][0].indices) for arm in selections if sample.id in arm]
        arms = tuple(
            MaskArm(arm=r.arm, arm_id=r.arm_id, indices=tuple(indices), response=r.response, score=r.score)
            for r, indices in zip(mine, by_arm, strict=True)
        )
        rows.append(
            MaskRow(
                task=task.name,
                cell=mine[0].cell,
                sample_id=sample.id,
                question=mine[0].question,
                reference=mine[0].reference,
                grid=(int(view.grid[0]), int(view.grid[1])),
                image=_write_image(run, task, sample, view.image),
                arms=arms,
            )
        )
    return rows


def _write_image(run: Path, task: Task, sample: Sample, image: Image.Image) -> str:
    """Write the image that the model saw, once; its path inside the run folder."""
    path = folder.mask_image(run, task.name, sample.id)
    if not path.exists():
        with replaced(path) as file:
            image.save(file, format="PNG")
    return path.relative_to(run).as_posix()

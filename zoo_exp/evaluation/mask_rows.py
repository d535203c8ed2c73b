"""What every arm kept of the images of a batch, and images of the first questions of each task for W&B and galleries.

`mask_drawing` draws those of other questions from what is recorded here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from zoo_exp.config.experiment import Cell
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.evaluation.sample_batches import Batch, Sample
from zoo_exp.files import replaced
from zoo_exp.models.answering import Generated
from zoo_exp.models.seen import layout_of, seen
from zoo_exp.runs import folder
from zoo_exp.runs.kept import Kept, KeptRow
from zoo_exp.runs.records import MaskArm, MaskRow, Record
from zoo_exp.tasks.base import Task

QUESTIONS = 4  # of each task, while it runs


def wanted(sample: Sample, images: Sequence[VisualTokens]) -> bool:
    """Whether a question gets a mask: the task's first ones do, where they show one image."""
    return sample.number < QUESTIONS and len(images) == 1


def shown(
    samples: Sequence[Sample], tokens: Sequence[Sequence[VisualTokens]], generated: Generated
) -> dict[str, list[Selection]]:
    """Sample id -> the kept tokens, by image; for a layer selector those at its last layer."""
    selections = generated.selected.selections
    if generated.layers is not None:
        selections = [
            _by_image(row, [image.count for image in images])
            for row, images in zip(generated.layers.left(), tokens, strict=True)
        ]
    return {sample.id: chosen for sample, chosen in zip(samples, selections, strict=True)}


def _by_image(indices: Sequence[int], counts: Sequence[int]) -> list[Selection]:
    """Indices through all images of a prompt, as one selection per image."""
    found, start = [], 0
    for count in counts:
        own = [index - start for index in indices if start <= index < start + count]
        found.append(Selection(torch.tensor(own, dtype=torch.long)))
        start += count
    return found


def kept_row(
    cell: Cell,
    arm_id: str,
    samples: Sequence[Sample],
    tokens: Sequence[Sequence[VisualTokens]],
    chosen: Mapping[str, Sequence[Selection]],
) -> KeptRow:
    """What an arm kept of the images of some samples."""
    kept = {}
    for sample, images in zip(samples, tokens, strict=True):
        indices: list[int] = []
        start = 0
        # An arm without an image, such as `blind`, has no selection.
        for image, selection in zip(images, chosen[sample.id], strict=False):
            indices += (selection.indices + start).tolist()
            start += image.count
        kept[sample.id] = Kept.of(" ".join(map(layout_of, images)), indices)
    return KeptRow(task=cell.task, cell=cell.id, arm_id=arm_id, kept=kept)


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
                image=write_image(run, task.name, sample.id, view.image),
                arms=arms,
            )
        )
    return rows


def write_image(run: Path, task: str, sample: str, image: Image.Image) -> str:
    """Write the image that the model saw, once; its path inside the run folder."""
    path = folder.mask_image(run, task, sample)
    if not path.exists():
        with replaced(path) as file:
            image.save(file, format="PNG")
    return path.relative_to(run).as_posix()

"""Kept-token masks of the first questions of each task, for galleries and W&B."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.evaluation.journal import Journal
from zoo_exp.evaluation.merge import replaced
from zoo_exp.evaluation.samples import Sample
from zoo_exp.tasks.base import Task

QUESTIONS = 12  # of each task: enough to find one on which arms disagree


class MaskWriter:
    """Writes one row per question to masks.jsonl and its picture to masks/, for single-image questions.

    Args:
        folder: the run folder.
        cell: id of the cell.
        rank: number of the process.
    """

    def __init__(self, folder: Path, cell: str, rank: int = 0) -> None:
        self.folder = folder
        self.journal = Journal(folder, "masks", cell, rank)

    def write(
        self,
        task: Task,
        samples: Sequence[Sample],
        tokens: Sequence[Sequence[VisualTokens]],
        records: Sequence[Mapping[str, Any]],
        selections: Sequence[Mapping[str, Sequence[Selection]]],
    ) -> None:
        """Rows of those samples of a batch that are among the task's first.

        Args:
            task: the task.
            samples: the batch.
            tokens: visual tokens per sample and image.
            records: the batch's records, all arms.
            selections: per arm, sample id -> selection per image.
        """
        wanted = {
            s.id: (s, t) for s, t in zip(samples, tokens, strict=True) if s.number < QUESTIONS and len(t) == 1
        }
        rows = []
        for sample, (image,) in wanted.values():
            mine = [record for record in records if record["sample_id"] == sample.id]
            if image.grid is None or not mine:
                continue
            by_arm = [arm[sample.id][0].indices.tolist() for arm in selections if sample.id in arm]
            arms = [
                {"arm": r["arm"], "indices": indices, "response": r["response"], "score": r["score"]}
                for r, indices in zip(mine, by_arm, strict=True)
            ]
            rows.append(
                {
                    "task": task.name,
                    "sample_id": sample.id,
                    "question": task.question(sample.doc),
                    "reference": task.reference(sample.doc),
                    "grid": list(image.grid),
                    "image": self._picture(task, sample),
                    "arms": arms,
                }
            )
        if rows:
            self.journal.append(rows)

    def _picture(self, task: Task, sample: Sample) -> str:
        """Save the picture once; its path inside the run folder."""
        name = hashlib.sha256(f"{task.name}/{sample.id}".encode()).hexdigest()[:16]
        path = self.folder / "masks" / f"{name}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with replaced(path) as file:
                task.images(sample.doc)[0].save(file, format="PNG")
        return path.relative_to(self.folder).as_posix()

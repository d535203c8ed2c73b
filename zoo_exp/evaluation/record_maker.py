"""Records of one cell, from responses."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from zoo_exp.config.experiment import Arm
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.evaluation.sample_batches import Sample
from zoo_exp.measure.cost_model import CostModel
from zoo_exp.models.responses import Answer
from zoo_exp.runs.records import Record
from zoo_exp.tasks.base import Task


class RecordMaker:
    """Makes the records of a cell.

    Args:
        task: its task.
        cell: its id.
        costs: FLOPs of the model; None where its family has no formula.
    """

    def __init__(self, task: Task, cell: str, costs: CostModel | None) -> None:
        self.task, self.cell, self.costs = task, cell, costs

    def not_applicable(self, arm: Arm, sample: Sample, reason: str, n_visual: int) -> Record:
        """The record of a question that an arm cannot answer."""
        return Record(
            **self._question(arm, sample),
            response="",
            score=None,
            parts={},
            kept_tokens=0,
            layer_tokens=None,
            n_visual=n_visual,
            prompt_tokens=None,
            new_tokens=None,
            flops_tflop=None,
            not_applicable=reason,
        )

    def _question(self, arm: Arm, sample: Sample) -> dict[str, Any]:
        """What a record says about its arm and its question."""
        return {
            "task": self.task.name,
            "cell": self.cell,
            **arm.as_dict(),
            "sample_id": sample.id,
            "image_id": self.task.image_name(sample.doc) or f"sample {sample.id}",
            "question": str(self.task.question(sample.doc)),
            "reference": self.task.reference(sample.doc),
        }

    def answered(
        self,
        arm: Arm,
        sample: Sample,
        answer: Answer,
        images: Sequence[VisualTokens],
        select_flops: int | None,
    ) -> Record:
        """The record of one answer.

        Its FLOPs are those of this answer alone: vision encoder, projector, selector with its scores, prefill, decode;
        None where the family has no formula.
        """
        parts = self.task.score(sample.doc, answer.text)
        length, counts = answer.prompt_tokens, answer.layer_tokens
        depth = length if counts is None else [length - answer.kept_tokens + count for count in counts]
        total = prefill = None
        if self.costs is not None:
            stages = self.costs.stages(images, depth, answer.new_tokens)
            total, prefill = stages.total + (select_flops or 0), stages.prefill
        return Record(
            **self._question(arm, sample),
            response=answer.text,
            score=parts["score"],
            parts=parts,
            kept_tokens=answer.kept_tokens,
            layer_tokens=None if counts is None else fmean(counts),
            n_visual=sum(image.count for image in images),
            prompt_tokens=length,
            new_tokens=answer.new_tokens,
            flops_tflop=_tflop(total),
            prefill_tflop=_tflop(prefill),
            selector_tflop=_tflop(select_flops),
        )


def _tflop(flops: int | None) -> float | None:
    return None if flops is None else round(flops / 1e12, 9)

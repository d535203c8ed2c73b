"""`PrunedVLM`: a VLM in Lightning's test loop. Each batch has one vision pass and one answer per sample and arm."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch

from zoo_exp.config.experiment import Arm
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.evaluation import launch, mask_rows, stop
from zoo_exp.evaluation.feature_cache import FeatureCache
from zoo_exp.evaluation.running_scores import RunningScores
from zoo_exp.evaluation.sample_batches import Batch, Failure, Sample, opened
from zoo_exp.evaluation.work import Work
from zoo_exp.evaluation.writer import CellWriter, Chosen, Rows
from zoo_exp.measure.cost_model import costs_of
from zoo_exp.measure.counted_selectors import LayerFlops, SelectorCosts
from zoo_exp.models.answering import (
    DEFAULT_NEW_TOKENS,
    Answer,
    EncodedBatch,
    Ratings,
    generate,
)
from zoo_exp.models.applicability import why_not
from zoo_exp.models.chat import to_device
from zoo_exp.models.generators import Generator, HfGenerator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.runs.records import Record, Timing

WRITE_EVERY = 1.0
"""Seconds that an answer may wait for others of its batch before it is written."""


class PrunedVLM(lightning.LightningModule):
    """Answers the questions of one cell after another under every arm.

    Args:
        loaded: model, processor and adapter.
        folder: the run folder.
        cache: stores the output of the vision encoder; None runs the encoder every time.
        generator: the engine; None for `transformers`.

    Attributes:
        work: the current cell; None before the first.
        started: whether all ranks have met and the test loop runs.
        recorded: answers that this process has written to disk.
        recorded_in_cell: those of the current cell.
        after_arm: called with an arm and its number of answers once it has answered a batch.
        running_scores: scores of the current cell so far; `synced` gives those of all cells over all ranks.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        folder: Path,
        cache: FeatureCache | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator or HfGenerator(loaded.model)
        self.encode = loaded.adapter.encode if cache is None else cache.encode
        self.loaded, self.model, self.folder = loaded, loaded.model, folder
        self.costs, self.selector_costs = costs_of(loaded.model.config), SelectorCosts()
        self.work: Work | None = None
        self.started = False
        self.recorded = self.recorded_in_cell = 0
        self.after_arm: Callable[[Arm, int], None] = lambda arm, answers: None
        self.running_scores = RunningScores()
        self._writer: CellWriter | None = None
        self._rows = Rows()

    def begin(self, work: Work) -> None:
        """Start a cell: build its selectors and metrics, and open its journals."""
        self.end()
        self.work, self.cell, self.task, self.done = work, work.cell, work.task, work.done
        self.selectors: dict[str, Any] = {arm.id: arm.build() for arm in self.cell.arms}
        self.needs = frozenset().union(*(selector.captures for selector in self.selectors.values()))
        self.recorded_in_cell = 0
        self.running_scores.begin(work, self.folder if self.global_rank == 0 else None)
        self._writer = CellWriter(self.folder, self.cell.id, self.global_rank)

    def end(self) -> None:
        """Close the journals of the current cell."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def running(self) -> dict[str, float]:
        """Arm label -> main metric in the current cell so far: earlier records and the answers of this process."""
        return self.running_scores.values()

    def on_test_start(self) -> None:
        """Take the work that the ranks agreed on; install the signal handlers again, which Lightning has replaced."""
        stop.install()
        self.left: list[Work] = self.trainer.datamodule.left  # type: ignore[attr-defined]
        self.started = True

    def on_test_end(self) -> None:
        """Wait until every rank has written its rows, because rank 0 merges them next.

        Raises:
            Stopped: a signal arrived; other ranks may have left already.
        """
        self.end()
        launch.meet(self.trainer)

    def transfer_batch_to_device(
        self, batch: Batch | Failure, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the tensors of a batch.

        Raises:
            ZooExpError: the batch could not be read; the current cell is then the one that it belongs to.
        """
        if isinstance(batch, Failure) and self.work is not self.left[dataloader_idx]:
            self.begin(self.left[dataloader_idx])
        batch = opened(batch)
        return Batch(batch.samples, to_device(batch.inputs, device), batch.refused)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Answer one batch under every arm; its rows are on disk when this returns.

        A signal to stop ends the batch after the current arm.

        Raises:
            Stopped: a signal arrived before this batch; the batch is not started.
        """
        if stop.requested():
            raise stop.Stopped
        if self.work is not self.left[dataloader_idx]:
            self.begin(self.left[dataloader_idx])
        self._refuse(batch)
        if not batch.samples:
            return
        self._rows = Rows()
        with torch.inference_mode():
            started = time.perf_counter()
            encoded = EncodedBatch(batch.inputs, self.encode(batch.inputs, self.needs))
            self._synchronise()
            vision_ms = (time.perf_counter() - started) * 1e3 / len(batch.samples)
            ratings = Ratings(self._synchronise)
            try:
                for arm in self.cell.arms:
                    self._ask(arm, batch, encoded, ratings, vision_ms)
                    if stop.requested():
                        break
                    self._write(batch, encoded, older_than=WRITE_EVERY)
            finally:  # what other arms have answered is kept
                self._write(batch, encoded)

    def _ask(self, arm: Arm, batch: Batch, encoded: EncodedBatch, ratings: Ratings, vision_ms: float) -> None:
        """Answer the samples of a batch that an arm lacks; what it cannot prune becomes a record that says why."""
        done, selector = self.done.get(arm.id, ()), self.selectors[arm.id]
        n_layers = len(self.loaded.adapter.layers)
        places = []
        for place, sample in enumerate(batch.samples):
            if sample.id in done:
                continue
            reason = why_not(selector, arm.budget, encoded.tokens[place], n_layers)
            if reason is None:
                places.append(place)
            else:
                n_visual = sum(image.count for image in encoded.tokens[place])
                self._rows.records.append(self._not_applicable(arm, sample, reason, n_visual))
                self.after_arm(arm, 1)
        if not places:
            return
        samples = [batch.samples[place] for place in places]
        rows, timing, kept = self._answer(
            arm, samples, encoded.rows(places), ratings, vision_ms * len(samples)
        )
        self._rows.records += rows
        self._rows.timings.append(timing)
        self._rows.chosen.append(kept)
        tokens = [encoded.tokens[place] for place in places]
        self._rows.kept.append(mask_rows.kept_row(self.cell, arm.id, samples, tokens, kept))
        self.running_scores.update(arm, rows)
        self.after_arm(arm, len(rows))

    def _refuse(self, batch: Batch) -> None:
        """Record the samples of a batch whose image the processor refuses, for every arm."""
        assert self._writer is not None
        rows = [
            self._not_applicable(arm, sample, reason, 0)
            for arm in self.cell.arms
            for sample, reason in batch.refused
            if sample.id not in self.done.get(arm.id, ())
        ]
        self._writer.write([], [], rows)
        for arm in self.cell.arms:
            refused = sum(row.arm_id == arm.id for row in rows)
            if refused:
                self.after_arm(arm, refused)
        self.recorded += len(rows)
        self.recorded_in_cell += len(rows)

    def _not_applicable(self, arm: Arm, sample: Sample, reason: str, n_visual: int) -> Record:
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
            "cell": self.cell.id,
            **arm.as_dict(),
            "sample_id": sample.id,
            "image_id": self.task.image_name(sample.doc) or f"sample {sample.id}",
            "question": str(self.task.question(sample.doc)),
            "reference": self.task.reference(sample.doc),
        }

    def _answer(
        self,
        arm: Arm,
        samples: Sequence[Sample],
        encoded: EncodedBatch,
        ratings: Ratings,
        vision_ms: float,
    ) -> tuple[list[Record], Timing, Chosen]:
        """Records, timing and selections of one arm on samples that it has not answered yet."""
        selector, settings = self.selectors[arm.id], self.task.generation
        flops = None if self.costs is None else LayerFlops(self.costs.text)
        generated = generate(
            self.loaded,
            encoded,
            selector,
            arm.budget,
            [f"{self.task.name}/{sample.id}/{arm.seed_index}" for sample in samples],
            seed=self.cell.seed,
            positions=arm.positions,
            ratings=ratings,
            probe=flops,
            generator=self.generator,
            max_new_tokens=settings.max_new_tokens or DEFAULT_NEW_TOKENS,
            do_sample=False,
        )
        answers = generated.read(self.loaded, settings.until)
        spent: list[int | None] = [None] * len(samples)
        if flops is not None:
            inside = flops.rows(generated)
            spent = (
                [self.selector_costs.of(selector, images, arm.budget) for images in encoded.tokens]
                if inside is None
                else list(inside)
            )
        records = [
            self._record(arm, *row) for row in zip(samples, answers, encoded.tokens, spent, strict=True)
        ]
        timing = Timing(
            task=self.task.name,
            cell=self.cell.id,
            arm=arm.label,
            arm_id=arm.id,
            sample_ids=tuple(sample.id for sample in samples),
            batch_size=len(samples),
            vision_ms=round(vision_ms, 3),
            select_ms=round(generated.selected.milliseconds, 3),
            # With continuous batching there is no such stage; requests per second follow from `spent_ms`.
            prefill_decode_ms=round(generated.generate_ms, 3) if self.generator.stages else None,
            # The time of this call alone: scores that an earlier arm computed are not in it.
            spent_ms=round(generated.spent_ms, 3),
        )
        return records, timing, mask_rows.shown(samples, encoded.tokens, generated)

    def _record(
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

    def _write(self, batch: Batch, encoded: EncodedBatch, older_than: float = 0.0) -> None:
        """Append the rows that arms have made so far to the journals of the cell.

        Args:
            batch: the questions.
            encoded: their visual tokens.
            older_than: seconds that the oldest row may wait for more.
        """
        rows = self._rows
        if not rows.records or time.monotonic() - rows.since < older_than:
            return
        assert self._writer is not None
        self._rows, processor = Rows(), self.loaded.processor
        masks = mask_rows.make(
            self.folder, self.task, batch, encoded.tokens, rows.records, rows.chosen, processor
        )
        self._writer.write(masks, rows.timings, rows.records, rows.kept)
        self.recorded += len(rows.records)
        self.recorded_in_cell += len(rows.records)

    def _synchronise(self) -> None:
        """Wait for the GPU, so that measured times include its work; a CPU needs no waiting."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _tflop(flops: int | None) -> float | None:
    return None if flops is None else round(flops / 1e12, 9)

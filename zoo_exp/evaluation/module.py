"""`PrunedVLM`: a VLM in Lightning's test loop. Each batch has one vision pass and one answer per sample and arm."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch

from zoo_exp.config.experiment import Arm
from zoo_exp.evaluation import launch, mask_rows, stop
from zoo_exp.evaluation.feature_cache import FeatureCache
from zoo_exp.evaluation.record_maker import RecordMaker
from zoo_exp.evaluation.running_scores import RunningScores
from zoo_exp.evaluation.sample_batches import Batch, Failure, Sample, opened
from zoo_exp.evaluation.work import Work
from zoo_exp.evaluation.writer import CellWriter, Rows
from zoo_exp.measure.cost_model import costs_of
from zoo_exp.measure.counted_selectors import LayerFlops, SelectorCosts
from zoo_exp.models.answering import DEFAULT_NEW_TOKENS, EncodedBatch, Generated, Ratings, generate
from zoo_exp.models.applicability import why_not
from zoo_exp.models.chat import to_device
from zoo_exp.models.generators import Generator, HfGenerator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.together import Asked, generate_together, in_groups, is_greedy
from zoo_exp.runs.records import Record, Timing
from zoo_exp.selectors.layer.base import LayerSelector

WRITE_EVERY = 1.0
"""Seconds that an answer may wait for others of its batch before it is written."""


class PrunedVLM(lightning.LightningModule):
    """Answers the questions of one cell after another under every arm.

    Args:
        loaded: model, processor and adapter.
        folder: the run folder.
        cache: stores the output of the vision encoder; None runs the encoder every time.
        generator: the engine; None for `transformers`.
        arms_per_call: most arms that `transformers` answers in one call.

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
        arms_per_call: int = 1,
    ) -> None:
        super().__init__()
        self.generator = generator or HfGenerator(loaded.model)
        shared = isinstance(self.generator, HfGenerator) and is_greedy(loaded.model)
        self.arms_per_call = arms_per_call if shared else 1
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
        self.maker = RecordMaker(self.task, self.cell.id, self.costs)
        self.calls = list(in_groups(self.cell.arms, self._joins, self.arms_per_call))
        self.recorded_in_cell = 0
        self.running_scores.begin(work, self.folder if self.global_rank == 0 else None)
        self._writer = CellWriter(self.folder, self.cell.id, self.global_rank)

    def _joins(self, arm: Arm) -> str | None:
        """Arms with the same text may share a call; None for an arm that is answered alone."""
        layer = isinstance(self.selectors[arm.id], LayerSelector)
        return None if layer or arm.budget is None else str(arm.budget)

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

        A signal to stop ends the batch after the current call.

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
                for arms in self.calls:
                    self._ask(arms, batch, encoded, ratings, vision_ms)
                    if stop.requested():
                        break
                    self._write(batch, encoded, older_than=WRITE_EVERY)
            finally:  # what other arms have answered is kept
                self._write(batch, encoded)

    def _ask(
        self, arms: Sequence[Arm], batch: Batch, encoded: EncodedBatch, ratings: Ratings, vision_ms: float
    ) -> None:
        """Answer the samples of a batch that some arms lack, in one call if there are several arms."""
        missing = [(arm, self._missing(arm, batch, encoded)) for arm in arms]
        parts = [
            _Part(arm, self.selectors[arm.id], [batch.samples[p] for p in places], encoded.rows(places))
            for arm, places in missing
            if places
        ]
        if not parts:
            return
        for part, (generated, layer_flops) in zip(
            parts, self._generate(parts, encoded, ratings), strict=True
        ):
            arm, samples, tokens = part.arm, part.samples, part.encoded.tokens
            rows = self._records(part, generated, layer_flops)
            kept = mask_rows.shown(samples, tokens, generated)
            self._rows.records += rows
            self._rows.timings.append(self._timing(part, generated, vision_ms * len(samples)))
            self._rows.chosen.append(kept)
            self._rows.kept.append(mask_rows.kept_row(self.cell, arm.id, samples, tokens, kept))
            self.running_scores.update(arm, rows)
            self.after_arm(arm, len(rows))

    def _missing(self, arm: Arm, batch: Batch, encoded: EncodedBatch) -> list[int]:
        """Places of the samples that an arm has to answer; what it cannot prune becomes a record that says why."""
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
                self._rows.records.append(self.maker.not_applicable(arm, sample, reason, n_visual))
                self.after_arm(arm, 1)
        return places

    def _refuse(self, batch: Batch) -> None:
        """Record the samples of a batch whose image the processor refuses, for every arm."""
        assert self._writer is not None
        rows = [
            self.maker.not_applicable(arm, sample, reason, 0)
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

    def _generate(
        self, parts: Sequence["_Part"], encoded: EncodedBatch, ratings: Ratings
    ) -> list[tuple[Generated, list[int] | None]]:
        """Responses of each part, and FLOPs of its layer selector by row; None for input selectors."""
        new_tokens = self.task.generation.max_new_tokens or DEFAULT_NEW_TOKENS
        options = {"max_new_tokens": new_tokens, "do_sample": False}
        if len(parts) == 1:
            (part,) = parts
            flops = None if self.costs is None else LayerFlops(self.costs.text)
            generated = generate(
                self.loaded,
                part.encoded,
                part.selector,
                part.arm.budget,
                self._names(part),
                seed=self.cell.seed,
                positions=part.arm.positions,
                ratings=ratings,
                probe=flops,
                generator=self.generator,
                **options,
            )
            return [(generated, None if flops is None else flops.rows(generated))]
        asked = [
            Asked(part.encoded, part.selector, part.arm.budget, self._names(part), part.arm.positions)
            for part in parts
        ]
        rows, length = encoded.inputs[
            "input_ids"
        ].shape  # unpruned: the call needs no more memory than `full`
        together = generate_together(
            self.loaded,
            asked,
            seed=self.cell.seed,
            ratings=ratings,
            most_tokens=rows * (length + new_tokens),
            **options,
        )
        return [(generated, None) for generated in together]

    def _names(self, part: "_Part") -> list[str]:
        return [f"{self.task.name}/{sample.id}/{part.arm.seed_index}" for sample in part.samples]

    def _records(
        self, part: "_Part", generated: Generated, layer_flops: Sequence[int] | None
    ) -> list[Record]:
        """Records of one arm on samples that it has not answered yet."""
        answers = generated.read(self.loaded, self.task.generation.until)
        arm, tokens = part.arm, part.encoded.tokens
        spent: Sequence[int | None] = [None] * len(answers)
        if layer_flops is not None:
            spent = layer_flops
        elif self.costs is not None:
            spent = [self.selector_costs.of(part.selector, images, arm.budget) for images in tokens]
        return [
            self.maker.answered(arm, *row) for row in zip(part.samples, answers, tokens, spent, strict=True)
        ]

    def _timing(self, part: "_Part", generated: Generated, vision_ms: float) -> Timing:
        return Timing(
            task=self.task.name,
            cell=self.cell.id,
            arm=part.arm.label,
            arm_id=part.arm.id,
            sample_ids=tuple(sample.id for sample in part.samples),
            batch_size=len(part.samples),
            vision_ms=round(vision_ms, 3),
            # The work of a layer selector is inside the prefill.
            select_ms=round(generated.selected.milliseconds, 3) if generated.layers is None else None,
            # With continuous batching there is no such stage; requests per second follow from `spent_ms`.
            prefill_decode_ms=round(generated.generate_ms, 3) if self.generator.stages else None,
            # The time of this call alone: scores that an earlier arm computed are not in it.
            spent_ms=round(generated.spent_ms, 3),
            arms_in_call=generated.arms_in_call,
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


@dataclass(frozen=True)
class _Part:
    """What one arm answers of a batch: these samples, whose visual tokens are in `encoded`."""

    arm: Arm
    selector: Any
    samples: Sequence[Sample]
    encoded: EncodedBatch

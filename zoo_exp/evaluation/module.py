"""`PrunedVLM`: a VLM under Lightning's test loop, one vision pass per batch and then every arm."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from torch import Tensor

from zoo_exp.config.experiment import Arm
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.evaluation import launch, mask_rows, stop
from zoo_exp.evaluation.feature_cache import FeatureCache
from zoo_exp.evaluation.rating import Ratings
from zoo_exp.evaluation.samples import Batch, Sample
from zoo_exp.evaluation.work import Work
from zoo_exp.evaluation.writer import CellWriter
from zoo_exp.measure.counted_selectors import CountedLayerSelector, SelectorCosts
from zoo_exp.measure.flops import CostModel
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.selectors.layer.base import LayerSelector


class PrunedVLM(lightning.LightningModule):
    """Answers the questions of one cell after another under every arm.

    Args:
        loaded: model, processor and adapter.
        folder: the run folder.
        cache: remembers what the vision tower said; None runs it every time.

    Attributes:
        work: the cell in hand; None before the first.
        recorded: answers that this process has put on disk.
        last_answers: those of the last batch.
    """

    def __init__(self, loaded: LoadedModel, folder: Path, cache: FeatureCache | None = None) -> None:
        super().__init__()
        self.encode = loaded.adapter.encode if cache is None else cache.encode
        self.loaded, self.model, self.folder = loaded, loaded.model, folder
        self.costs, self.selector_costs = CostModel(loaded.model.config), SelectorCosts()
        self.work: Work | None = None
        self.recorded = self.last_answers = 0
        self._writer: CellWriter | None = None

    def begin(self, work: Work) -> None:
        """Take up a cell: what to answer, what is answered already, and where rows go."""
        self.end()
        self.work, self.cell, self.task, self.done = work, work.cell, work.task, work.done
        self.selectors: dict[str, Any] = {arm.id: arm.build() for arm in self.cell.arms}
        self.needs = frozenset().union(*(selector.needs for selector in self.selectors.values()))
        self._writer = CellWriter(self.folder, self.cell.id, self.global_rank)

    def end(self) -> None:
        """Close the cell's files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def on_test_start(self) -> None:
        """Take the work that the ranks agreed on, and the signals that Lightning has just taken."""
        stop.install()
        self.left: list[Work] = self.trainer.datamodule.left  # type: ignore[attr-defined]

    def on_test_end(self) -> None:
        """Wait until every rank has written its rows: rank 0 merges them next.

        Raises:
            Stopped: a signal came, so that other ranks may have left already.
        """
        self.end()
        launch.meet(self.trainer)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors, leave the rows."""
        inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.inputs.items()}
        return Batch(batch.samples, inputs)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch: encode, then select, prune and generate per arm; rows are on disk when this returns.

        A signal to stop ends the batch behind the arm in hand.

        Raises:
            Stopped: a signal came before this batch; it was not begun.
        """
        if stop.requested():
            raise stop.Stopped
        if self.work is not self.left[dataloader_idx]:
            self.begin(self.left[dataloader_idx])
        assert self._writer is not None
        with torch.inference_mode():
            started = time.perf_counter()
            tokens = self.encode(batch.inputs, self.needs)
            self._synchronise()
            vision_ms = (time.perf_counter() - started) * 1e3
            ratings = Ratings(self._synchronise)
            answered = []
            for arm in self.cell.arms:
                answered.append(self._answer(arm, batch, tokens, vision_ms, ratings))
                if stop.requested():
                    break
        rows = [row for records, _, _ in answered for row in records]
        self._writer.records.append(rows)
        self._writer.timings.append(timing for _, timing, _ in answered if timing)
        kept = [selections for _, _, selections in answered]
        self._writer.masks.write(self.task, batch, tokens, rows, kept, self.loaded.processor)
        self.last_answers = len(rows)
        self.recorded += len(rows)

    def _answer(
        self, arm: Arm, batch: Batch, tokens: list[list[VisualTokens]], vision_ms: float, ratings: Ratings
    ) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[str, list[Selection]]]:
        """Records, timing and selections of one arm on those samples of the batch that it has not answered yet."""
        done = self.done.get(arm.id, ())
        places = [place for place, sample in enumerate(batch.samples) if sample.id not in done]
        if not places:
            return [], None, {}
        samples = [batch.samples[place] for place in places]
        inputs = batch.inputs if len(places) == len(batch.samples) else _rows(batch.inputs, places, tokens)
        visual = [tokens[place] for place in places]
        started = time.perf_counter()
        selections, select_ms = self._select(arm, samples, visual, ratings)
        selected = time.perf_counter()
        prompt = prune_prompt(self.loaded.adapter, inputs, visual, selections)
        settings = self.task.generation
        options = {"max_new_tokens": settings.max_new_tokens or DEFAULT_NEW_TOKENS, "do_sample": False}
        selector = self.selectors[arm.id]
        layer_counts: Sequence[list[int] | None]
        if isinstance(selector, LayerSelector):
            adapter, counted = self.loaded.adapter, CountedLayerSelector(selector, self.costs.text)
            layered = generate_layer_pruned(adapter, prompt, counted.rule, arm.budget, **options)
            new_tokens, layer_counts = layered.new_tokens, layered.counts
        else:
            new_tokens = generate_pruned(self.model, prompt, **options)
            layer_counts = [None] * len(samples)
        self._synchronise()
        finished = time.perf_counter()
        if isinstance(selector, LayerSelector):
            spent = iter(counted.flops)
            shown = [mask_rows.wanted(sample, images) for sample, images in zip(samples, visual, strict=True)]
            if any(shown):  # what its last layer saw is worked out, and waited for, where a mask shows it
                selections = [
                    [Selection(torch.tensor(row, dtype=torch.long))] if mask else chosen
                    for row, mask, chosen in zip(layered.left(), shown, selections, strict=True)
                ]
            select_flops = [next(spent) if kept else 0 for kept in prompt.kept_tokens]
        else:
            select_flops = [self.selector_costs.of(selector, images, arm.budget) for images in visual]
        responses = self.loaded.processor.batch_decode(new_tokens, skip_special_tokens=True)
        lengths = prompt.attention_mask.sum(1).tolist()
        generated = self._generated_lengths(new_tokens)
        records = [
            self._record(
                arm,
                sample,
                _cut(response, settings.until),
                kept,
                images,
                length,
                new,
                counts,
                flops,
            )
            for sample, response, kept, images, length, new, counts, flops in zip(
                *(
                    samples,
                    responses,
                    prompt.kept_tokens,
                    visual,
                    lengths,
                    generated,
                    layer_counts,
                    select_flops,
                ),
                strict=True,
            )
        ]
        timing = {
            "task": self.task.name,
            "arm": arm.label,
            "arm_id": arm.id,
            "batch_size": len(samples),
            "vision_ms": round(vision_ms * len(samples) / len(batch.samples), 3),
            "select_ms": round(select_ms, 3),
            "prefill_decode_ms": round((finished - selected) * 1e3, 3),
            # What this arm really took: a rating that an earlier arm made is not in it.
            "spent_ms": round((finished - started) * 1e3, 3),
        }
        return records, timing, {s.id: chosen for s, chosen in zip(samples, selections, strict=True)}

    def _select(
        self,
        arm: Arm,
        samples: Sequence[Sample],
        visual: Sequence[Sequence[VisualTokens]],
        ratings: Ratings,
    ) -> tuple[list[list[Selection]], float]:
        """Selections per sample and image, all images of the batch in one call; and the selector's milliseconds.

        The milliseconds hold the rating's in full, also where another arm has rated the tokens already.
        """
        draws = tuple(
            (f"{self.task.name}/{sample.id}/{arm.seed_index}", number)
            for sample, images in zip(samples, visual, strict=True)
            for number in range(len(images))
        )
        selector = self.selectors[arm.id]
        if isinstance(selector, LayerSelector):  # it decides inside the language model, where its time counts
            keep_all = [
                Selection(torch.arange(t.count, device=t.device)) for images in visual for t in images
            ]
            everything = iter(keep_all)
            return [[next(everything) for _ in images] for images in visual], 0.0
        flat = [image for images in visual for image in images]
        generators = [generator_for(self.cell.seed, name, number) for name, number in draws]
        rating = ratings.rate(selector, flat, generators, draws)
        started = time.perf_counter()
        chosen = iter(selector.select_many(flat, arm.budget, rating.generators(), rating.scores))
        self._synchronise()
        milliseconds = rating.milliseconds + (time.perf_counter() - started) * 1e3
        return [[next(chosen) for _ in images] for images in visual], milliseconds

    def _record(
        self,
        arm: Arm,
        sample: Sample,
        response: str,
        kept: int,
        images: Sequence[VisualTokens],
        length: int,
        new: int,
        layer_counts: Sequence[int] | None,
        select_flops: int,
    ) -> dict[str, Any]:
        """One record; `layer_counts` are the visual tokens at the input of every layer, of layer selectors only.

        FLOPs are those of an answer alone: the vision tower, the selector with its whole rating, prefill, decoding.
        """
        parts = self.task.score(sample.doc, response)
        layers = {} if layer_counts is None else {"layer_tokens": fmean(layer_counts)}
        depth = length if layer_counts is None else [length - kept + count for count in layer_counts]
        flops = self.costs.stages(images, depth, new).total + select_flops
        return {
            "task": self.task.name,
            **arm.as_dict(),
            "cell": self.cell.id,
            "sample_id": sample.id,
            # Embedded benchmarks name the scene that several of them ask about: one cluster for the bootstrap.
            "image_id": sample.doc.get("scene") or self.task.image_id(sample.doc),
            "question": self.task.question(sample.doc),
            "reference": self.task.reference(sample.doc),
            "response": response,
            "score": parts["score"],
            "parts": parts,
            "kept_tokens": kept,
            **layers,
            "n_visual": sum(image.count for image in images),
            "prompt_tokens": length,
            "new_tokens": new,
            "flops_tflop": round(flops / 1e12, 9),
        }

    def _generated_lengths(self, new_tokens: Tensor) -> list[int]:
        """Tokens up to and including the end mark [B]."""
        ends = self.model.generation_config.eos_token_id
        ends_tensor = torch.as_tensor(ends if isinstance(ends, list) else [ends], device=new_tokens.device)
        ended = torch.isin(new_tokens, ends_tensor).cumsum(1).clamp(max=1)
        return (new_tokens.shape[1] - ended.sum(1) + ended.amax(1)).tolist()

    def _synchronise(self) -> None:
        """Wait for the GPU, so that stage times are its times; nothing to do on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


DEFAULT_NEW_TOKENS = 128


def _rows(
    inputs: Mapping[str, Any], places: list[int], tokens: Sequence[Sequence[VisualTokens]]
) -> dict[str, Any]:
    """The text inputs of some rows; pictures are encoded already and not needed any more."""
    return {key: inputs[key][places] for key in ("input_ids", "attention_mask")}


def _cut(response: str, until: Sequence[str]) -> str:
    """The response up to the first of the texts that end an answer."""
    for end in until:
        response = response.split(end)[0]
    return response.strip()

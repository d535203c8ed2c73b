"""Training of the embedded model: a LightningModule that goes through three stages, resumable at every epoch.

1. dense: the tower alone learns what every patch of crowded scenes shows.
2. frozen: projector and language model learn to answer; the tower stands still.
3. joint: everything learns, the tower slowly; rates decay to zero over the last part.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from zoo_exp.embedded.model import make_model
from zoo_exp.embedded.objectives import PatchObjectives
from zoo_exp.embedded.optimisers import make_optimisers
from zoo_exp.embedded.packed_forward import text_forward, vision_forward
from zoo_exp.embedded.packing import NO_TARGET, PackedBatch, make_batch
from zoo_exp.embedded.questions import FAMILIES
from zoo_exp.embedded.recipe import EPOCH, Recipe


class SceneStream(IterableDataset[PackedBatch]):
    """Batches as a function of (step, rank): no scene comes twice, and a resumed run sees what it would have seen."""

    def __init__(self, recipe: Recipe, first_step: int, rank: int, world_size: int) -> None:
        self.recipe, self.first_step, self.rank, self.world_size = recipe, first_step, rank, world_size

    def __iter__(self) -> Iterator[PackedBatch]:
        recipe = self.recipe
        for step in range(self.first_step, recipe.steps):
            dense = recipe.stage(step) == "dense"
            size = (recipe.dense_images if dense else recipe.images) // self.world_size
            first = (recipe.seed * recipe.steps + step) * max(
                recipe.dense_images, recipe.images
            ) + self.rank * size
            yield make_batch(
                "train", range(first, first + size), recipe.text_length, 0 if dense else recipe.questions
            )


class EmbeddedTraining(lightning.LightningModule):
    """Wraps the model and its training-only heads."""

    def __init__(self, recipe: Recipe, log_file: Path) -> None:
        super().__init__()
        self.recipe, self.log_file = recipe, log_file
        self.automatic_optimization = False  # two optimisers, one gradient
        self.model = make_model(recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.heads = PatchObjectives()
        self.register_buffer("answered", torch.zeros(2, len(FAMILIES)), persistent=False)
        self.losses: list[dict[str, Tensor]] = []

    @property
    def step(self) -> int:
        """Optimiser steps done so far."""
        return self.current_epoch * EPOCH + self._batch_in_epoch

    _batch_in_epoch = 0

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """The stream from the current epoch on (the Trainer asks again at every epoch)."""
        stream = SceneStream(
            self.recipe, self.current_epoch * EPOCH, self.global_rank, self.trainer.world_size
        )
        return DataLoader(stream, batch_size=None, num_workers=0)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon and AdamW."""
        return make_optimisers(self.model, self.heads, self.recipe.muon_lr, self.recipe.adamw_lr)

    def training_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """One gradient, two optimisers."""
        self._batch_in_epoch = batch_idx
        stage = self.recipe.stage(self.step)
        losses = (
            self._dense_losses(batch) if stage == "dense" else self._answer_losses(batch, stage == "frozen")
        )
        optimisers = self.optimizers()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.manual_backward(losses["loss"])
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.grad is not None], 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                slow = self.recipe.tower_pace if group["tower"] and stage == "joint" else 1.0
                group["lr"] = group["base_lr"] * slow * self.recipe.pace(self.step)
            optimiser.step()
        self.losses.append({name: value.detach() for name, value in losses.items()})
        if batch_idx % 10 == 0:
            self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)

    def _dense_losses(self, batch: PackedBatch) -> dict[str, Tensor]:
        features, pooled = vision_forward(self.model.model.vision_tower, batch.pixels)
        loss, kind = self.heads.dense(features, pooled, batch.patches, batch.contents)
        return {"loss": loss, "kind": kind}

    def _answer_losses(self, batch: PackedBatch, frozen: bool) -> dict[str, Tensor]:
        inner, recipe = self.model.model, self.recipe
        with torch.set_grad_enabled(not frozen):
            features, pooled = vision_forward(inner.vision_tower, batch.pixels)
            dense, kind = self.heads.dense(features, pooled, batch.patches, batch.contents)
        projected = inner.multi_modal_projector(features)
        words = inner.language_model.embed_tokens.weight
        align = self.heads.alignment(projected, words, batch.patches)
        place = self.heads.position(projected, words)
        shift = int(
            torch.randint(0, recipe.max_shift + 1, (), generator=torch.Generator().manual_seed(self.step))
        )
        hidden = text_forward(
            inner.language_model, projected, batch.ids, batch.segment, batch.position, shift
        )
        learnt = batch.target != NO_TARGET
        logits, target, family = (
            self.model.lm_head(hidden[learnt]),
            batch.target[learnt],
            batch.family[learnt],
        )
        weight = torch.where(family >= 0, 1.0, 0.05)  # the end mark after a one-word answer is no news
        answer = (functional.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        loss = answer + recipe.align_weight * (align + place)
        if not frozen:
            loss = loss + recipe.dense_weight * dense
        with torch.no_grad():
            right, asked = (logits.argmax(-1) == target)[family >= 0].float(), family[family >= 0]
            self.answered[0].index_add_(0, asked, right)
            self.answered[1].index_add_(0, asked, torch.ones_like(right))
        return {"loss": loss, "answer": answer, "dense": dense, "align": align, "place": place, "kind": kind}

    def on_train_epoch_end(self) -> None:
        """Write this epoch's means: one line in the log file, the accuracy in the progress bar."""
        names = self.losses[-1]
        means = {n: float(torch.stack([row[n] for row in self.losses if n in row]).mean()) for n in names}
        right, total = self.answered
        accuracy = {name: float(r / t) for name, r, t in zip(FAMILIES, right, total, strict=True) if t}
        line: dict[str, Any] = {
            "step": (self.current_epoch + 1) * EPOCH,
            "pace": self.recipe.pace(self.step),
            **means,
        }
        if accuracy:
            line["average"] = sum(accuracy.values()) / len(accuracy)
            self.log("accuracy", line["average"], prog_bar=True, logger=False, sync_dist=False)
        line = {key: round(value, 4) for key, value in {**line, **accuracy}.items()}
        if self.trainer.is_global_zero:
            with self.log_file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.answered.zero_()
        self.losses.clear()

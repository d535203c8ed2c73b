"""What each model learns in a step: losses of the dense and the joint stage, as a function of the step alone."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.model import WIDTH
from zoo_exp.embedded.packed_forward import prefixed_forward, vision_forward
from zoo_exp.embedded.packing import NO_TARGET, normalise
from zoo_exp.embedded.world2.asking import FAMILIES_2
from zoo_exp.embedded.world2.builders import make_llava
from zoo_exp.embedded.world2.heads import DenseHeads
from zoo_exp.embedded.world2.layout import BASE_SIDE, Scene2, make_scene_2
from zoo_exp.embedded.world2.place_codes import PlaceCodes
from zoo_exp.embedded.world2.plan import Plan
from zoo_exp.embedded.world2.question_packs import TextBatch, contents, dense_batch, pack_questions
from zoo_exp.embedded.world2.subsets import subset

# The decoder's layers in training: the same steps in 0.6 of the time.
COMPUTE = torch.bfloat16
END_WEIGHT = 0.05  # the end mark after a one-word answer is known soon


class Learner(nn.Module):
    """A model with its training-only heads; subclasses say what they look at.

    Attributes:
        model: the stock model.
        heads: heads that exist in training only.
        codes: how the decoder that was copied writes places; None: the heads learn it.
        encoder_names: parts of a parameter's name by which it belongs to the vision encoder.
    """

    encoder_names: tuple[str, ...] = ("vision_tower",)
    model: Any
    heads: DenseHeads
    codes: PlaceCodes | None

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.codes = plan, None
        self._scenes: dict[int, list[Scene2]] = {}
        self._seen: dict[int, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def losses(self, step: int) -> dict[str, Tensor]:
        """All losses of a step; `loss` is what is minimised, `right` and `asked` [families] count answers."""
        torch.manual_seed(self.plan.seed * 1_000_003 + step)
        return self.dense_losses(step) if self.plan.stage(step) == "dense" else self.joint_losses(step)

    def dense_losses(self, step: int) -> dict[str, Tensor]:
        """The vision encoder on dense labels."""
        plan = self.plan
        first = (plan.seed * 10**4 + step) * 64
        batch = dense_batch("train", first, plan.dense_images)
        features, pooled = self.encode(batch.pixels.to(self.device))
        patches, there = batch.patches.to(self.device), batch.contents.to(self.device)
        loss, kind = self.heads.dense(features, patches, pooled, there)
        return {"loss": loss, "kind": kind}

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features before the projector [B, N, Dv], and the pooled CLS [B, Dv]."""
        raise NotImplementedError

    def joint_losses(self, step: int) -> dict[str, Tensor]:
        """Questions, and what else the plan asks for."""
        raise NotImplementedError

    def scenes(self, step: int, images: int, height: int, width: int) -> tuple[list[Scene2], list[str]]:
        """A step's scenes, and the seeds of their questions, which are new at every step."""
        slot = self.plan.slot(step)
        first = 10**7 + (self.plan.seed * 10**6 + slot) * 64
        indices = range(first, first + images)
        scenes = self._scenes.get(slot) or [make_scene_2("train", index, height, width) for index in indices]
        if self.plan.pool:
            self._scenes[slot] = scenes
        return scenes, [f"q2/{step}/{index}" for index in indices]

    def seen(self, step: int, pixels: Callable[[], Tensor]) -> Tensor:
        """Features of a step's scenes behind a vision encoder that stands still; kept while there is a pool.

        They are rounded to bfloat16 also when they are new, so that a resumed run sees the same numbers.

        Args:
            step: the step.
            pixels: makes the normalised images that the encoder sees.
        """
        slot = self.plan.slot(step)
        features = self._seen.get(slot)
        if features is None:
            with torch.no_grad():
                features = self.encode(pixels().to(self.device))[0].to(torch.bfloat16)
            if self.plan.pool:
                self._seen[slot] = features
        return features.float()

    def few(self, rng: random.Random, total: int) -> int | None:
        """How many of `total` visual tokens a step keeps; None: all."""
        if rng.random() >= self.plan.drop_share:
            return None
        least = min(self.plan.drop_min, total)
        if self.plan.few_power == 1:  # by the draw of earlier runs, which resume with the same batches
            count = rng.randint(least, total)
        else:
            count = least + round((total - least) * rng.random() ** self.plan.few_power)
        if self.plan.blind_share and rng.random() < self.plan.blind_share:
            return 0
        return count

    def thin(self, visual: Tensor, step: int) -> tuple[Tensor, Tensor | None, int]:
        """A share of the steps keeps a random few tokens (`few`), some of them with original positions.

        Args:
            visual: projected tokens [B, N, D].
            step: the step.

        Returns:
            The tokens that stay [B, k, D], their numbers [B, k] where positions stay original, and the gap that
            keeps the text where it was.
        """
        rng, total = random.Random(f"thin/{self.plan.seed}/{step}"), visual.shape[1]
        few = self.few(rng, total)
        if few is None:
            return visual, None, 0
        order = subset(visual, few, rng, self.plan.uneven_share)
        kept = visual.gather(1, order[..., None].expand(-1, -1, visual.shape[2]))
        if rng.random() < self.plan.original_share:
            return kept, order, total - few
        return kept, None, 0

    def answer_loss(self, hidden: Tensor, text: TextBatch, rows: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the answers, and how many were right by family.

        Args:
            hidden: final states of the tokens `rows` [B, R, D].
            text: the questions.
            rows: numbers of those tokens [B, R].
        """
        targets, families = text.target.gather(1, rows), text.family.gather(1, rows)
        learnt = targets != NO_TARGET
        logits, target, family = self.model.lm_head(hidden[learnt]), targets[learnt], families[learnt]
        weight = torch.where(family >= 0, 1.0, END_WEIGHT)
        answer = (functional.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        with torch.no_grad():
            first = family >= 0
            hits = (logits.argmax(-1) == target)[first].float()
            right, asked = torch.zeros(2, len(FAMILIES_2), device=hits.device)
            right.index_add_(0, family[first], hits)
            asked.index_add_(0, family[first], torch.ones_like(hits))
        return {"answer": answer, "right": right, "asked": asked}


def answer_rows(text: TextBatch) -> Tensor:
    """Numbers of the tokens behind which an answer is learnt [B, R], padded with others."""
    learnt = text.target != NO_TARGET
    return learnt.int().argsort(stable=True, dim=1, descending=True)[:, : int(learnt.sum(1).max())]


class LlavaLearner(Learner):
    """`embedded`: 144 tokens of one image of 96 px."""

    def __init__(self, plan: Plan, model: Any = None) -> None:
        super().__init__(plan)
        self.model = make_llava(plan.seed) if model is None else model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.heads = DenseHeads(WIDTH, WIDTH, WIDTH)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patch features of the feature layer, and the pooled CLS."""
        return vision_forward(self.model.model.vision_tower, pixels)

    def joint_losses(self, step: int) -> dict[str, Tensor]:
        """Answers; the dense loss where the encoder learns; alignment of projected features while it lasts."""
        plan, inner = self.plan, self.model.model
        scenes, seeds = self.scenes(step, plan.images, BASE_SIDE, BASE_SIDE)
        text = self.on_device(
            pack_questions(scenes, seeds, plan.text_length, plan.questions, easy_share=plan.easy_share)
        )
        pixels, patches, there = self.image_batch(scenes)
        result: dict[str, Tensor] = {}
        if plan.encoder_pace > 0:
            features, pooled = self.encode(pixels)
            result["dense"], result["kind"] = self.heads.dense(features, patches, pooled, there)
        else:
            features = self.seen(step, lambda: pixels)
        projected = inner.multi_modal_projector(features)
        visual, places, gap = self.thin(projected, step)
        shift = gap or random.Random(f"shift/{plan.seed}/{step}").randint(0, plan.max_shift)
        rows = answer_rows(text)
        hidden, _ = prefixed_forward(
            inner.language_model, visual, text[:3], shift, places, rows=rows, compute=COMPUTE
        )
        result |= self.answer_loss(hidden, text, rows)
        result["loss"] = result["answer"]
        if "dense" in result:
            result["loss"] = result["loss"] + plan.dense_weight * result["dense"]
        share = plan.align_weight * plan.auxiliary(step)
        if share:
            align = self.heads.alignment(projected, inner.language_model.embed_tokens.weight, patches)
            result["align"] = align
            result["loss"] = result["loss"] + share * align
        result["thinned"] = torch.tensor(float(visual.shape[1] < projected.shape[1]))
        return result

    def image_batch(self, scenes: list[Scene2]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised pixels, patch labels and contents of scenes."""
        import numpy as np

        labels = [scene.patch_labels() for scene in scenes]
        pixels = normalise(np.stack([scene.pixels for scene in scenes]))
        there = torch.from_numpy(np.stack([contents(label) for label in labels]))
        patches = torch.from_numpy(np.stack(labels))
        return pixels.to(self.device), patches.to(self.device), there.to(self.device)

    def on_device(self, text: TextBatch) -> TextBatch:
        """The batch where the parameters are."""
        return TextBatch(*(part.to(self.device) for part in text))

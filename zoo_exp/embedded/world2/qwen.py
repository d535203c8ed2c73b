"""What `embedded_qwen` learns in a step.

The vision encoder has rotary positions only: on a flat image all of its tokens are equal, so places are learnt
inside the decoder, from M-RoPE.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_exp.embedded.model import WIDTH
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.world2.builders import make_llava
from zoo_exp.embedded.world2.front import Prompts
from zoo_exp.embedded.world2.heads import DenseHeads, raster_places
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, Scene2, make_scene_2
from zoo_exp.embedded.world2.learners import COMPUTE, Learner, answer_rows
from zoo_exp.embedded.world2.lexicon import QWEN_PREFIX, TOKEN_ID_2, VISION_END
from zoo_exp.embedded.world2.plan import Plan
from zoo_exp.embedded.world2.question_packs import contents, families_at, pack_questions
from zoo_exp.embedded.world2.qwen_forward import (
    encode_cells,
    m_rope,
    merge_cells,
    prefix_positions,
    qwen_text_forward,
)
from zoo_exp.embedded.world2.qwen_model import (
    GAIN,
    MAX_PIXELS,
    MERGE,
    OTHER_SIZES,
    SIDES,
    VISION_WIDTH,
    make_qwen,
)
from zoo_exp.embedded.world2.subsets import subset


class QwenLearner(Learner):
    """`embedded_qwen`: images of several sizes, places learnt inside the decoder."""

    encoder_names = ("visual.patch_embed", "visual.blocks")

    def __init__(self, plan: Plan, model: Any = None) -> None:
        super().__init__(plan)
        if model is None:
            model = make_qwen(plan.seed, make_llava(plan.seed).model.language_model)
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.heads = DenseHeads(MERGE**2 * VISION_WIDTH, 0, WIDTH)
        for block in self.model.model.visual.blocks:
            block.attn.qkv.weight.parts = 3  # Muon orthogonalises q, k and v apart
        self.model.model.visual.merger.mlp[2].weight.gain = GAIN

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the merger reads; there is no CLS."""
        return encode_cells(self.model.model.visual, pixels), None

    def size(self, step: int) -> tuple[int, int]:
        """Height and width of a step's images."""
        rng = random.Random(f"size/{self.plan.seed}/{self.place(step)}")
        if rng.random() >= OTHER_SIZES:
            return BASE_SIDE, BASE_SIDE
        height = rng.choice(SIDES)
        return height, rng.choice([width for width in SIDES if height * width <= MAX_PIXELS])

    def place(self, step: int) -> int:
        """What decides the scenes of a step."""
        return step if self.plan.stage(step) == "dense" else self.plan.slot(step)

    def dense_losses(self, step: int) -> dict[str, Tensor]:
        """Dense labels before the merger, and the alignment of its output with the copied decoder's words."""
        plan, (height, width) = self.plan, self.size(step)
        images = max(2, round(plan.dense_images * BASE_SIDE**2 / (height * width)))
        first = (plan.seed * 10**4 + step) * 64
        scenes = [make_scene_2("train", first + i, height, width) for i in range(images)]
        pixels, patches, _ = self._images(scenes)
        cells, _ = self.encode(pixels)
        dense, kind = self.heads.dense(cells, patches)
        words = self.model.model.language_model.embed_tokens.weight.detach()
        align = self.heads.alignment(merge_cells(self.model.model.visual, cells), words, patches)
        return {"loss": dense + plan.align_weight * align, "dense": dense, "kind": kind, "align": align}

    @torch.no_grad()
    def prompts(self, slot: int) -> Prompts:
        """Prompts about scenes of the usual size."""
        first = 10**7 + (self.plan.seed * 10**6 + slot) * 64
        scenes = [make_scene_2("train", first + i) for i in range(self.plan.images)]
        cells, _ = self.encode(self._images(scenes)[0])
        llm, side = self.model.model.language_model, BASE_SIDE // PATCH
        ids = pack_questions(scenes, [f"front/{slot}/{i}" for i in range(len(scenes))], 96, 8).ids.to(
            self.device
        )
        head, end = (
            llm.embed_tokens(torch.tensor([part] * len(scenes), device=self.device))
            for part in (QWEN_PREFIX, [TOKEN_ID_2[VISION_END]])
        )
        tokens = torch.cat([head, merge_cells(self.model.model.visual, cells), end, llm.embed_tokens(ids)], 1)
        where, behind = prefix_positions(side, side)
        text = (behind + torch.arange(ids.shape[1])).expand(3, 1, -1)
        where = torch.cat([where, text], 2).to(self.device)
        numbers = torch.arange(side * side, device=self.device) + len(QWEN_PREFIX)
        return Prompts(tokens, m_rope(llm, where), numbers, raster_places(side, side).to(self.device))

    def joint_losses(self, step: int) -> dict[str, Tensor]:
        """Answers, the dense loss, and places inside the decoder while they last."""
        plan, (height, width) = self.plan, self.size(step)
        visual_part, llm = self.model.model.visual, self.model.model.language_model
        images = max(2, round(plan.images * BASE_SIDE**2 / (height * width)))
        scenes, seeds = self.scenes(step, images, height, width)
        weights = families_at((height, width) == (BASE_SIDE, BASE_SIDE))
        text = pack_questions(scenes, seeds, plan.text_length, plan.questions, weights, plan.easy_share)
        text = type(text)(*(part.to(self.device) for part in text))
        pixels, patches, _ = self._images(scenes)
        result: dict[str, Tensor] = {}
        if plan.encoder_pace > 0:
            cells, _ = self.encode(pixels)
            result["dense"], result["kind"] = self.heads.dense(cells, patches)
        else:
            cells = self.seen(step, lambda: pixels)
        projected = merge_cells(visual_part, cells)
        grid = height // PATCH, width // PATCH
        kept, visual = self._thinned(projected, step), projected
        if kept is not None:
            visual = projected.gather(1, kept[..., None].expand(-1, -1, projected.shape[2]))
        shift = random.Random(f"shift/{plan.seed}/{step}").randint(0, plan.max_shift)
        share, rows = plan.auxiliary(step), answer_rows(text)
        hidden, probed = qwen_text_forward(
            *(llm, visual, grid, text[:3], shift, kept, plan.probe_layer if share and kept is None else 0),
            rows=rows,
            compute=COMPUTE,
        )
        result |= self.answer_loss(hidden, text, rows)
        result["loss"] = result["answer"]
        if "dense" in result:
            result["loss"] = result["loss"] + plan.dense_weight * result["dense"]
        words = llm.embed_tokens.weight
        if share and plan.align_weight:
            result["align"] = self.heads.alignment(projected, words, patches)
            result["loss"] = result["loss"] + share * plan.align_weight * result["align"]
        if probed is not None and (height, width) == (BASE_SIDE, BASE_SIDE):
            places = raster_places(*grid).to(self.device)
            if self.codes is None:
                result["sides"] = self.heads.sides(probed, words, places)
            else:
                result["sides"] = self.codes(probed, places)
            result["loss"] = result["loss"] + share * plan.side_weight * result["sides"]
        result["thinned"] = torch.tensor(float(kept is not None))
        return result

    def _thinned(self, projected: Tensor, step: int) -> Tensor | None:
        """Numbers of the tokens that stay in a share of the steps [B, K]; they keep their positions, as when pruned."""
        rng, total = random.Random(f"thin/{self.plan.seed}/{step}"), projected.shape[1]
        few = self.few(rng, total)
        if few is None:
            return None
        return subset(projected, few, rng, self.plan.uneven_share)

    def _images(self, scenes: list[Scene2]) -> tuple[Tensor, Tensor, Tensor]:
        labels = [scene.patch_labels() for scene in scenes]
        pixels = normalise(np.stack([scene.pixels for scene in scenes]))
        there = torch.from_numpy(np.stack([contents(label) for label in labels]))
        patches = torch.from_numpy(np.stack(labels))
        return pixels.to(self.device), patches.to(self.device), there.to(self.device)

"""`embedded_next`: a base view and up to 2 x 2 tiles of a scene, and what the model learns in a step."""

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo_exp.embedded.model import WIDTH
from zoo_exp.embedded.packed_forward import PREFIX_TEXT, prefixed_forward, rope, vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.world2.builders import make_llava, make_next
from zoo_exp.embedded.world2.front import Prompts
from zoo_exp.embedded.world2.heads import DenseHeads, raster_places
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, make_scene_2
from zoo_exp.embedded.world2.learners import COMPUTE, Learner, answer_rows
from zoo_exp.embedded.world2.plan import Plan
from zoo_exp.embedded.world2.question_packs import families_at, pack_questions

CELLS = BASE_SIDE // PATCH
SHAPES_OF_IMAGES = ((2, 2), (1, 2), (2, 1))  # tiles down and across
OTHER_SHAPES = 0.2  # share of the steps whose images are not 2 x 2 tiles


def views(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Base view and tiles in raster order [1 + tiles, 96, 96, 3] of an image of whole tiles.

    The base view is squeezed to a square by the stock processor's bicubic resampling.
    """
    side = BASE_SIDE
    base = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    tiles = [
        pixels[top : top + side, left : left + side]
        for top in range(0, pixels.shape[0], side)
        for left in range(0, pixels.shape[1], side)
    ]
    return np.stack([base, *tiles])


def pack_views(projected: Tensor, newline: Tensor, shape: tuple[int, int]) -> Tensor:
    """Visual tokens in the order of the stock class [B, N, D]: base view, then the raster of all tiles.

    Args:
        projected: projected features of the views [B, 1 + tiles, 144, D].
        newline: the embedding behind every row of the raster [D].
        shape: tiles down and across.
    """
    batch, width = len(projected), projected.shape[-1]
    down, across = shape
    raster = projected[:, 1:].view(batch, down, across, CELLS, CELLS, width)
    raster = raster.permute(0, 1, 3, 2, 4, 5).reshape(batch, down * CELLS, across * CELLS, width)
    rows = torch.cat([raster, newline.expand(batch, down * CELLS, 1, width)], 2)
    return torch.cat([projected[:, 0], rows.flatten(1, 2)], 1)


def places_of(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Numbers of the tokens that show something, and their x and y in the image in -1 to 1 [count, 2]."""
    down, across = shape
    n, cols = CELLS * CELLS, across * CELLS
    raster = torch.arange(down * CELLS)[:, None] * (cols + 1) + torch.arange(cols)[None]
    numbers = torch.cat([torch.arange(n), n + raster.flatten()])
    return numbers, torch.cat([raster_places(CELLS, CELLS), raster_places(down * CELLS, cols)])


class NextLearner(Learner):
    """`embedded_next`: the vision encoder of `embedded`, which stands still, on a base view and tiles."""

    def __init__(self, plan: Plan, model: Any = None) -> None:
        super().__init__(plan)
        self.model = make_next(make_llava(plan.seed), plan.seed) if model is None else model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.heads = DenseHeads(WIDTH, WIDTH, WIDTH)
        self.model.model.vision_tower.requires_grad_(False)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patch features of the feature layer, and the pooled CLS."""
        return vision_forward(self.model.model.vision_tower, pixels)

    def shape(self, step: int) -> tuple[int, int]:
        """Tiles of a step's images."""
        rng = random.Random(f"shape/{self.plan.seed}/{self.plan.slot(step)}")
        return SHAPES_OF_IMAGES[0] if rng.random() >= OTHER_SHAPES else rng.choice(SHAPES_OF_IMAGES[1:])

    @torch.no_grad()
    def prompts(self, slot: int) -> Prompts:
        """Prompts about a few scenes of 2 x 2 tiles."""
        shape = SHAPES_OF_IMAGES[0]
        first = 10**7 + (self.plan.seed * 10**6 + slot) * 64
        sides = shape[0] * BASE_SIDE, shape[1] * BASE_SIDE
        scenes = [make_scene_2("train", first + i, *sides) for i in range(max(1, self.plan.images // 2))]
        pixels = normalise(np.concatenate([views(scene.pixels) for scene in scenes]))
        inner, llm = self.model.model, self.model.model.language_model
        features = inner.multi_modal_projector(self.encode(pixels.to(self.device))[0])
        visual = pack_views(features.unflatten(0, (len(scenes), -1)), inner.image_newline, shape)
        ids = pack_questions(scenes, [f"front/{slot}/{i}" for i in range(len(scenes))], 96, 8).ids.to(
            self.device
        )
        head = torch.tensor([PREFIX_TEXT] * len(scenes), device=self.device)
        tokens = torch.cat([llm.embed_tokens(head), visual, llm.embed_tokens(ids)], 1)
        numbers, places = (part.to(self.device) for part in places_of(shape))
        where = torch.arange(tokens.shape[1], device=self.device)[None]
        return Prompts(tokens, rope(llm, where), numbers + len(PREFIX_TEXT), places)

    def joint_losses(self, step: int) -> dict[str, Tensor]:
        """Answers, and places inside the decoder while they last."""
        plan, inner, shape = self.plan, self.model.model, self.shape(step)
        scenes, seeds = self.scenes(step, plan.images, shape[0] * BASE_SIDE, shape[1] * BASE_SIDE)
        weights = families_at(shape == SHAPES_OF_IMAGES[0])
        text = pack_questions(scenes, seeds, plan.text_length, plan.questions, weights, plan.easy_share)
        text = type(text)(*(part.to(self.device) for part in text))
        features = self.seen(
            step, lambda: normalise(np.concatenate([views(scene.pixels) for scene in scenes]))
        )
        projected = inner.multi_modal_projector(features).unflatten(0, (len(scenes), -1))
        visual = pack_views(projected, inner.image_newline, shape)
        kept, places, gap = self.thin(visual, step)
        thinned = kept.shape[1] < visual.shape[1]
        shift = gap or random.Random(f"shift/{plan.seed}/{step}").randint(0, plan.max_shift)
        share, rows = plan.auxiliary(step) * plan.side_weight, answer_rows(text)
        probe = plan.probe_layer if share and not thinned else 0
        hidden, probed = prefixed_forward(
            inner.language_model, kept, text[:3], shift, places, probe_after=probe, rows=rows, compute=COMPUTE
        )
        result = self.answer_loss(hidden, text, rows)
        result["loss"] = result["answer"]
        if probed is not None:
            numbers, where = (part.to(self.device) for part in places_of(shape))
            if self.codes is None:
                result["where"] = self.heads.where(probed[:, numbers], where)
            elif shape == SHAPES_OF_IMAGES[0]:
                result["where"] = self.codes(probed[:, numbers], where)
            result["loss"] = result["loss"] + share * result.get("where", 0.0)
        result["thinned"] = torch.tensor(float(thinned))
        return result

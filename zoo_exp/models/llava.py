"""LLaVA-1.5: one raster of patches per image, from a CLIP tower through a two-layer projector."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import UnknownNameError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.capture import Capture
from zoo_exp.models.misplaced_images import refuse_misplaced_images
from zoo_exp.models.projector import ProjectorWeights
from zoo_exp.models.tower import ClipTower

TOWERS = ("clip_vision_model", "siglip_vision_model")


class LlavaAdapter(VLMAdapter):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower (LLaVA-1.5 7B and 13B)."""

    family: ClassVar[str] = "llava"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        vision = self.model.config.vision_config
        if vision.model_type not in TOWERS:
            raise UnknownNameError("vision tower of a LLaVA model", vision.model_type, TOWERS)
        self.projector: Any = self.vlm.multi_modal_projector
        self.tower = ClipTower(self.vlm.vision_tower, self.model.config)
        self.weights = ProjectorWeights(
            self.projector.linear_1, self.projector.linear_2, self.model.config.projector_hidden_act
        )
        side = vision.image_size // vision.patch_size
        self.side = side
        self.n_visual = side * side + (self.tower.has_cls and not self.tower.skip)

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """The projector, and what the tower needs."""
        return {"projector": self.projector, **self.tower.taps(needs)}

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """One entry per image."""
        rows = self.tower.rows(capture, needs)
        if "features" in needs:
            rows["features"] = capture["projector"].args[0]
        shared = self.projector_fields(needs)
        grid = (self.side, self.side) if len(pooled[0]) == self.side**2 else None
        images = []
        for i, projected in enumerate(pooled):
            fields: dict[str, Any] = {name: value[i] for name, value in rows.items()}
            if "hidden" in needs:
                fields["hidden"] = self.tower.hidden(capture, slice(i, i + 1))
            if "replay" in needs:
                fields["replay"] = self.tower.replay(capture, slice(i, i + 1))
            if "cls_attention" in needs:
                fields["attention_heads"] = self.tower.heads
            if "layer_attention" in needs:
                fields["layer_attention"] = self.tower.layer_attention(capture, slice(i, i + 1))
            images.append(VisualTokens(projected=projected, grid=grid, **shared, **fields))
        return self.with_resizing(images, call) if "resize" in needs else images

    def check_call(self, given: Mapping[str, Any]) -> None:
        """Refuse images that older versions of `generate` repeat in the wrong order."""
        refuse_misplaced_images(self.vlm, given, self.image_token_id)

    def projector_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """The projector as a function, and its weights where they are a two-layer GELU MLP."""
        if "projector" not in needs:
            return {}
        return {"project": self._project, "mlp": self.weights.mlp()}

    def with_resizing(self, images: Sequence[VisualTokens], call: Mapping[str, Any]) -> list[VisualTokens]:
        """Add `pixels_encoder`, which needs nothing but the pixels, to images of one raster."""
        pixels = call["pixel_values"]
        return [
            image if image.grid is None else replace(image, pixels_encoder=self.resized(pixels[i : i + 1]))
            for i, image in enumerate(images)
        ]

    @cached_property
    def _project(self) -> Callable[[Tensor], Tensor]:
        projector = self.projector

        def project(x: Tensor) -> Tensor:
            out: Tensor = projector(x.to(projector.linear_1.weight.dtype))
            return out.to(x.dtype)

        return project

    def resized(self, pixels: Tensor) -> Callable[[tuple[int, int]], Tensor]:
        """Z of an image [1, 3, H, W] at another token grid: smaller pixels, interpolated position embeddings."""
        patch = self.tower.patch_size

        @torch.no_grad()
        def encode(grid: tuple[int, int]) -> Tensor:
            size = (grid[0] * patch, grid[1] * patch)
            small = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(pixels.dtype)
            output = self.image_features(pixel_values=small, interpolate_pos_encoding=True)
            projected: Tensor = output.pooler_output[0]
            return projected

        return encode

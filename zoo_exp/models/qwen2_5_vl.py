"""Qwen2.5-VL: images of any shape, a tower that works in window order, three position axes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_exp.core.closed_form import PatchMerger
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.base import VLMAdapter, count_positions
from zoo_exp.models.capture import Capture
from zoo_exp.models.projector import ProjectorWeights
from zoo_exp.models.qwen_tower import QwenTower, resized_patches, tokens_of


class QwenAdapter(VLMAdapter):
    """`Qwen2_5_VLForConditionalGeneration`. Features are the 2 x 2 patches of a token side by side [N, 4 Dv]."""

    family: ClassVar[str] = "qwen2_5_vl"
    positions: str = "original"

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.visual: Any = self.vlm.visual
        self.merger: Any = self.visual.merger
        self.tower = QwenTower(self.visual)
        self.weights = ProjectorWeights(self.merger.mlp[0], self.merger.mlp[2], "gelu")
        self._patch_merger: PatchMerger | None = None

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """The merger, and what the tower needs."""
        return {"merger": self.merger, **self.tower.taps(needs)}

    def collect(
        self,
        capture: Capture,
        pooled: Sequence[Tensor],
        call: Mapping[str, Any],
        needs: frozenset[str],
    ) -> list[VisualTokens]:
        """One entry per image; window order is undone."""
        grids = call["image_grid_thw"]
        order = self.tower.language_order(grids).to(pooled[0].device)
        sizes = [len(p) for p in pooled]
        rows = self.tower.rows(capture, order, sizes, needs)
        if "features" in needs:
            rows["features"] = tokens_of(capture["merger"].args[0], order).split(sizes)
        hidden = self.tower.hidden(capture, order, sizes) if "hidden" in needs else {}
        replays = self.tower.replays(capture, order, sizes) if "replay" in needs else [None] * len(sizes)
        shared = self.projector_fields(needs)
        merge = self.visual.spatial_merge_size
        images = []
        for i, (projected, (t, h, w)) in enumerate(zip(pooled, grids.tolist(), strict=True)):
            fields: dict[str, Any] = {name: value[i] for name, value in rows.items()}
            if t == 1:
                fields["grid"] = (h // merge, w // merge)
            per_layer = {layer: value[i] for layer, value in hidden.items()}
            images.append(
                VisualTokens(projected=projected, hidden=per_layer, replay=replays[i], **shared, **fields)
            )
        return self.with_resizing(images, call) if "resize" in needs else images

    def projector_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """The merger as a function, and its weights where they are what stock checkpoints have."""
        if "projector" not in needs:
            return {}
        return {"project": self.project, "mlp": self._merger()}

    def with_resizing(self, images: Sequence[VisualTokens], call: Mapping[str, Any]) -> list[VisualTokens]:
        """Add `pixels_encoder`, which needs nothing but the pixels, to images of one raster."""
        grids = call["image_grid_thw"]
        pixels = call["pixel_values"].split(grids.prod(dim=1).tolist())
        return [
            image if image.grid is None else replace(image, pixels_encoder=self._resized(patches, h, w))
            for image, patches, (_, h, w) in zip(images, pixels, grids.tolist(), strict=True)
        ]

    def project(self, x: Tensor) -> Tensor:
        """The merger on tokens [..., 4 Dv] -> [..., D]."""
        patches = x.reshape(-1, x.shape[-1] // self.visual.spatial_merge_unit)
        out: Tensor = self.merger(patches.to(self.merger.mlp[0].weight.dtype))
        return out.view(*x.shape[:-1], out.shape[-1]).to(x.dtype)

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[VisualTokens]) -> Tensor:
        """Time, row and column of every token [3, B, L]."""
        merge = self.visual.spatial_merge_size
        grids = [(1, t.grid[0] * merge, t.grid[1] * merge) if t.grid else (1, 0, 0) for t in images]
        positions: Tensor = self.vlm.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self.image_token_id).int(),
            image_grid_thw=torch.tensor(grids, device=ids.device) if grids else None,
            attention_mask=mask.long(),
        )[0]
        return positions

    def new_positions(self, mask: Tensor) -> Tensor:
        """The same number on every axis."""
        return count_positions(mask)[None].expand(3, -1, -1)

    def _merger(self) -> PatchMerger | None:
        mlp = self.weights.mlp()
        if mlp is None:
            return None
        norm = self.merger.ln_q
        if self._patch_merger is None or self._patch_merger.mlp is not mlp:
            self._patch_merger = PatchMerger(norm.weight.detach().float(), mlp, norm.variance_epsilon)
        return self._patch_merger

    def _resized(self, patches: Tensor, h: int, w: int) -> Callable[[tuple[int, int]], Tensor]:
        """Z of an image, given as patches [h w, P], at another token grid."""
        config, merge = self.model.config.vision_config, self.visual.spatial_merge_size

        @torch.no_grad()
        def encode(grid: tuple[int, int]) -> Tensor:
            rows, columns = grid[0] * merge, grid[1] * merge
            small = resized_patches(patches, (h, w), (rows, columns), config, merge)
            thw = torch.tensor([[1, rows, columns]], device=patches.device)
            projected: Tensor = self.image_features(pixel_values=small, image_grid_thw=thw).pooler_output[0]
            return projected

        return encode

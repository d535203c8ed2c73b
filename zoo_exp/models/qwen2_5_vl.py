"""Qwen2.5-VL: images of any shape, a tower that works in window order, three position axes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_exp.core.closed_form import PatchMerger
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.base import VLMAdapter, count_positions
from zoo_exp.models.capture import Capture, attention_rows
from zoo_exp.models.projector import ProjectorWeights

_ATTENTION = frozenset({"received_attention", "keys"})
_QUERIES_AT_ONCE = 512


class QwenAdapter(VLMAdapter):
    """`Qwen2_5_VLForConditionalGeneration`. Features are the 2 x 2 patches of a token side by side [N, 4 Dv]."""

    family: ClassVar[str] = "qwen2_5_vl"
    positions: ClassVar[str] = "original"

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.visual: Any = self.vlm.visual
        self.merger: Any = self.visual.merger
        self.weights = ProjectorWeights(self.merger.mlp[0], self.merger.mlp[2], "gelu")
        self._patch_merger: PatchMerger | None = None

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """The merger; the last block that attends to the whole image; every block."""
        wanted: dict[str, nn.Module] = {"merger": self.merger}
        if needs & _ATTENTION:
            block = self.visual.blocks[self.visual.fullatt_block_indexes[-1]]
            wanted |= {"attention": block.attn, "qkv": block.attn.qkv}
        if "hidden" in needs:
            wanted |= {f"block{i}": block for i, block in enumerate(self.visual.blocks)}
        return wanted

    def collect(
        self,
        capture: Capture,
        pooled: Sequence[Tensor],
        call: Mapping[str, Any],
        needs: frozenset[str],
    ) -> list[VisualTokens]:
        """One entry per image; window order is undone."""
        grids = call["image_grid_thw"]
        order = self._language_order(grids).to(pooled[0].device)
        sizes = [len(p) for p in pooled]
        rows: dict[str, Sequence[Tensor]] = {}
        if "features" in needs:
            rows["features"] = self._tokens(capture["merger"].args[0], order).split(sizes)
        if needs & _ATTENTION:
            received, keys = self._attention(capture, order, sizes)
            rows |= {k: v for k, v in (("received_attention", received), ("keys", keys)) if k in needs}
        hidden = {}
        if "hidden" in needs:
            hidden = {
                i + 1: self._tokens(capture[f"block{i}"].tensor, order).split(sizes)
                for i in range(len(self.visual.blocks))
            }
        shared: dict[str, Any] = {}
        if "projector" in needs:
            shared = {"project": self.project, "mlp": self._merger()}
        merge = self.visual.spatial_merge_size
        pixels = call["pixel_values"].split(grids.prod(dim=1).tolist()) if "resize" in needs else None
        images = []
        for i, (projected, (t, h, w)) in enumerate(zip(pooled, grids.tolist(), strict=True)):
            fields: dict[str, Any] = {name: value[i] for name, value in rows.items()}
            if t == 1:
                fields["grid"] = (h // merge, w // merge)
                if pixels is not None:
                    fields["pixels_encoder"] = self._resized(pixels[i], h, w)
            per_layer = {layer: value[i] for layer, value in hidden.items()}
            images.append(VisualTokens(projected=projected, hidden=per_layer, **shared, **fields))
        return images

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

    def _language_order(self, grids: Tensor) -> Tensor:
        """Place in window order of every token of the language model's order."""
        from transformers.vision_utils import get_vision_window_index

        visual = self.visual
        window, _ = get_vision_window_index(
            grids,
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
            kwargs={},
        )
        return torch.argsort(window)

    def _tokens(self, patches: Tensor, order: Tensor) -> Tensor:
        """Patches [4 N, Dv] in window order -> tokens [N, 4 Dv] in the language model's order."""
        return patches.reshape(len(order), -1)[order]

    def _merger(self) -> PatchMerger | None:
        mlp = self.weights.mlp()
        if mlp is None:
            return None
        norm = self.merger.ln_q
        if self._patch_merger is None or self._patch_merger.mlp is not mlp:
            self._patch_merger = PatchMerger(norm.weight.detach().float(), mlp, norm.variance_epsilon)
        return self._patch_merger

    def _attention(
        self, capture: Capture, order: Tensor, sizes: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Attention that each token's patches receive, and their rotated keys, image by image."""
        module, unit = self.visual.blocks[0].attn, self.visual.spatial_merge_unit
        heads = module.num_heads
        query, key, _ = capture["qkv"].tensor.unflatten(-1, (3, heads, -1)).unbind(1)
        cos, sin = (t[:, None] for t in capture["attention"].kwargs["position_embeddings"])
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        q, k = (self._tokens(t.flatten(1), order).unflatten(-1, (unit, -1)) for t in (query, key))
        received, keys, scale = [], [], (key.shape[-1]) ** -0.5
        for image_q, image_k in zip(q.split(sizes), k.split(sizes), strict=True):
            rows, columns = image_q.flatten(0, 1), image_k.flatten(0, 1)
            total = sum(
                attention_rows(part, columns, heads, scale).sum(dim=(0, 1))
                for part in rows.split(_QUERIES_AT_ONCE)
            )
            mean = torch.as_tensor(total) / (heads * len(rows))
            received.append(mean.view(-1, unit).mean(dim=1))
            keys.append(image_k.unflatten(-1, (heads, -1)).mean(dim=(1, 2)))
        return received, keys

    def _resized(self, patches: Tensor, h: int, w: int) -> Callable[[tuple[int, int]], Tensor]:
        """Z of an image, given as flat patches [h w, C p p t], at another token grid."""
        vision, merge = self.model.config.vision_config, self.visual.spatial_merge_size
        channels, depth, p = vision.in_channels, vision.temporal_patch_size, vision.patch_size
        blocks = patches.view(h // merge, w // merge, merge, merge, channels, depth, p, p)
        image = blocks.permute(5, 4, 0, 2, 6, 1, 3, 7).reshape(depth, channels, h * p, w * p)

        @torch.no_grad()
        def encode(grid: tuple[int, int]) -> Tensor:
            rows, columns = grid
            size = (rows * merge * p, columns * merge * p)
            small = F.interpolate(image.float(), size, mode="bicubic", antialias=True).to(patches.dtype)
            cells = small.view(depth, channels, rows, merge, p, columns, merge, p)
            flat = cells.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns * merge * merge, -1)
            thw = torch.tensor([[1, rows * merge, columns * merge]], device=patches.device)
            output = self.vlm.get_image_features(flat, thw, return_dict=True)
            projected: Tensor = output.pooler_output[0]
            return projected

        return encode


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of [n, H, d] in float32."""
    low, high = x.float().chunk(2, dim=-1)
    turned: Tensor = x.float() * cos.float() + torch.cat([-high, low], dim=-1) * sin.float()
    return turned.to(x.dtype)

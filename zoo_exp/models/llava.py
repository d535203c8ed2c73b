"""LLaVA-1.5: one grid of patches per image, from a CLIP encoder through a two-layer projector."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_exp.core.flops import Encoding, linear
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import UnknownNameError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.capture import Capture
from zoo_exp.models.clip_encoder import ClipEncoder
from zoo_exp.models.generic_projector import compute_dtype
from zoo_exp.models.offloaded import at_hand
from zoo_exp.models.placeholders import refuse_misplaced_images
from zoo_exp.models.projector_weights import ProjectorWeights

_CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 32001,
}
_LLAMA_13B = {
    **LLAMA_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
LLAVA_15 = {
    "vision_config": _CLIP_L_336,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "image_token_id": 32000,
}
"""Arguments of `LlavaConfig` (config.json of the checkpoints)."""
ENCODERS = ("clip_vision_model", "siglip_vision_model")


class LlavaAdapter(VLMAdapter):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP vision encoder (LLaVA-1.5 7B and 13B)."""

    family: ClassVar[str] = "llava"
    model_class: ClassVar[str] = "LlavaForConditionalGeneration"
    config_class: ClassVar[str] = "LlavaConfig"
    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llava-hf/llava-1.5-7b-hf": {**LLAVA_15, "text_config": LLAMA_7B, "image_seq_length": 576},
        "llava-hf/llava-1.5-13b-hf": {**LLAVA_15, "text_config": _LLAMA_13B, "image_seq_length": 576},
    }

    @classmethod
    def processor_class(cls) -> Any:
        """The family's processor class; `AutoProcessor` would require torchvision."""
        from transformers import LlavaProcessor

        return LlavaProcessor

    @classmethod
    def vision_costs(cls, config: Any) -> "ClipCosts":
        """Square tiles through a CLIP or SigLIP encoder."""
        return ClipCosts(config)

    def made_up_images(
        self, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Synthetic images of the encoder's size."""
        assert self.n_visual is not None
        side = self.model.config.vision_config.image_size
        return {"pixel_values": torch.randn(batch_size, 3, side, side, generator=generator)}, self.n_visual

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        vision = self.model.config.vision_config
        if vision.model_type not in ENCODERS:
            raise UnknownNameError("vision encoder of a LLaVA model", vision.model_type, ENCODERS)
        self.projector: Any = self.vlm.multi_modal_projector
        self.vision_encoder = ClipEncoder(self.vlm.vision_tower, self.model.config)
        self.weights = ProjectorWeights(
            self.projector.linear_1, self.projector.linear_2, self.model.config.projector_hidden_act
        )
        side = vision.image_size // vision.patch_size
        self.side = side
        self.n_visual = side * side + (self.vision_encoder.has_cls and not self.vision_encoder.skip)

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """The projector, and the encoder modules for the needs."""
        hidden = {"hidden_layer": self.projector.linear_1} if "preactivation" in needs else {}
        return {"projector": self.projector, **hidden, **self.vision_encoder.taps(needs)}

    def projector_rows(self, capture: Capture, needs: frozenset[str]) -> dict[str, Tensor]:
        """What the projector read, and its hidden layer, over a batch of images or tiles [B, N, ...]."""
        rows = {"features": capture["projector"].args[0]} if "features" in needs else {}
        if "preactivation" in needs and self.weights.mlp() is not None:
            rows["preactivation"] = capture["hidden_layer"].tensor
        return rows

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """One entry per image."""
        rows = self.vision_encoder.rows(capture, needs) | self.projector_rows(capture, needs)
        shared = self.projector_fields(needs)
        grid = (self.side, self.side) if len(pooled[0]) == self.side**2 else None
        images = []
        for i, projected in enumerate(pooled):
            fields: dict[str, Any] = {name: value[i] for name, value in rows.items()}
            if "hidden" in needs:
                fields["hidden"] = self.vision_encoder.hidden(capture, slice(i, i + 1))
            if "replay" in needs:
                fields["replay"] = self.vision_encoder.replay(capture, slice(i, i + 1))
            if "cls_attention" in needs:
                fields["attention_heads"] = self.vision_encoder.heads
            if "layer_attention" in needs:
                fields["layer_attention"] = self.vision_encoder.layer_attention(capture, slice(i, i + 1))
            images.append(VisualTokens(projected=projected, grid=grid, **shared, **fields))
        return self.with_resizing(images, call) if "resize" in needs else images

    def check_call(self, given: Mapping[str, Any]) -> None:
        """Refuse images that older versions of `generate` repeat in the wrong order."""
        refuse_misplaced_images(self.vlm, given, self.image_token_id)

    def projector_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """The projector as a function, and its weights if it is a two-layer GELU MLP."""
        if "projector" not in needs:
            return {}
        return {"project": self._project, "mlp": self.weights.mlp()}

    def with_resizing(self, images: Sequence[VisualTokens], call: Mapping[str, Any]) -> list[VisualTokens]:
        """Add `pixels_encoder`, which needs only the pixels, to images that have one grid."""
        pixels = call["pixel_values"]
        return [
            image if image.grid is None else replace(image, pixels_encoder=self.resized(pixels[i : i + 1]))
            for i, image in enumerate(images)
        ]

    @cached_property
    def _project(self) -> Callable[[Tensor], Tensor]:
        projector = self.projector

        def project(x: Tensor) -> Tensor:
            out: Tensor = projector(x.to(compute_dtype(projector, self.model.dtype)))
            return out.to(x.dtype)

        return project

    def resized(self, pixels: Tensor) -> Callable[[tuple[int, int]], Tensor]:
        """Z of an image [1, 3, H, W] at another token grid: smaller pixels, interpolated position embeddings."""
        patch = self.vision_encoder.patch_size

        @torch.no_grad()
        def encode(grid: tuple[int, int]) -> Tensor:
            size = (grid[0] * patch, grid[1] * patch)
            small = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(pixels.dtype)
            places = self.vision_encoder.encoder.embeddings.position_embedding
            with at_hand(places):  # interpolated without a call of the module
                output = self.image_features(pixel_values=small, interpolate_pos_encoding=True)
            projected: Tensor = output.pooler_output[0]
            return projected

        return encode


class ClipCosts:
    """FLOPs of a CLIP or SigLIP encoder on square tiles, and of a two-layer projector (LLaVA-1.5, LLaVA-NeXT)."""

    def __init__(self, config: Any) -> None:
        self.vision, self.width = config.vision_config, config.get_text_config().hidden_size
        self.per_tile = (self.vision.image_size // self.vision.patch_size) ** 2
        self.has_cls = self.vision.model_type == "clip_vision_model"
        self.keeps_cls = self.has_cls and config.vision_feature_select_strategy == "full"
        layers = config.vision_feature_layer
        self.feature_width = self.vision.hidden_size * (1 if isinstance(layers, int) else len(layers))

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """The exact cost of these images."""
        return self.tiles(self._number(images))

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """The cost of attention weights that selectors read: fused kernels do not return them."""
        rows, width = self.per_tile + self.has_cls, int(self.vision.hidden_size)
        whole = len({"received_attention", "object_attention"} & set(needs))
        queries = ("cls_attention" in needs and self.has_cls) + rows * whole
        return self._number(images) * linear(queries, width, rows)

    def guess(self, n_visual: int) -> Encoding:
        """The cost of images with `n_visual` visual tokens together.

        Exact for LLaVA-1.5. On LLaVA-NeXT, where cropping hides the number of tiles, it assumes the fewest tiles
        with that count: up to two tiles too few of six for very long images.
        """
        return self.tiles(-(-n_visual // (self.per_tile + self.keeps_cls)) if n_visual else 0)

    def tiles(self, number: int) -> Encoding:
        """FLOPs for a number of tiles; each passes encoder and projector completely, before cropping."""
        return Encoding(number * self._encoder(), number * self._projector())

    def _number(self, images: Sequence[VisualTokens]) -> int:
        return sum(1 if t.tile is None else int(t.tile.max()) + 1 for t in images)

    def _encoder(self) -> int:
        c = self.vision
        rows, width = self.per_tile + self.has_cls, int(c.hidden_size)
        layer = 4 * linear(rows, width, width) + 2 * linear(rows, width, rows)
        layer += 2 * linear(rows, width, c.intermediate_size)
        return linear(self.per_tile, 3 * c.patch_size**2, width) + int(c.num_hidden_layers) * layer

    def _projector(self) -> int:
        rows = self.per_tile + self.keeps_cls
        return linear(rows, self.feature_width, self.width) + linear(rows, self.width, self.width)

"""Qwen2.5-VL: images of any shape, a vision encoder in window order, three position axes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_exp.core.closed_form import PatchMerger
from zoo_exp.core.flops import Encoding, linear
from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.base import VLMAdapter, count_positions
from zoo_exp.models.capture import Capture
from zoo_exp.models.generic_projector import compute_dtype
from zoo_exp.models.kernel_store import kept_on_disk
from zoo_exp.models.offloaded import loaded_copy
from zoo_exp.models.projector_weights import ProjectorWeights
from zoo_exp.models.qwen_encoder import QwenEncoder, resized_patches, tokens_of

_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}


class QwenAdapter(VLMAdapter):
    """`Qwen2_5_VLForConditionalGeneration`. Features are the 2 x 2 patches of a token side by side [N, 4 Dv]."""

    family: ClassVar[str] = "qwen2_5_vl"
    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    config_class: ClassVar[str] = "Qwen2_5_VLConfig"
    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Qwen/Qwen2.5-VL-7B-Instruct": {
            "vision_config": _VISION,
            "text_config": _TEXT,
            "image_token_id": 151655,
            "video_token_id": 151656,
            "vision_start_token_id": 151652,
            "vision_end_token_id": 151653,
            "tie_word_embeddings": False,
        },
    }
    positions: str = "original"

    @classmethod
    def processor_class(cls) -> Any:
        """The stock processor; without videos where torchvision or the checkpoint's video settings are missing."""
        return QwenProcessors

    @classmethod
    def vision_costs(cls, config: Any) -> "QwenCosts":
        """An encoder with attention windows, and the merger."""
        return QwenCosts(config)

    def made_up_images(
        self, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Patches of an image of that size, rounded down to whole visual tokens."""
        vision = self.model.config.vision_config
        unit = vision.spatial_merge_size
        rows, columns = (max(1, length // (vision.patch_size * unit)) for length in image_size)
        grid = torch.tensor([[1, rows * unit, columns * unit]] * batch_size)
        depth = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        values = torch.randn(batch_size * rows * columns * unit**2, depth, generator=generator)
        return {"pixel_values": values, "image_grid_thw": grid}, rows * columns

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.visual: Any = self.vlm.visual
        self.merger: Any = self.visual.merger
        self.vision_encoder = QwenEncoder(self.visual)
        self.weights = ProjectorWeights(self.merger.mlp[0], self.merger.mlp[2], "gelu")
        self._patch_merger: PatchMerger | None = None

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """The merger, and the encoder modules for the given needs."""
        hidden = {"hidden_layer": self.merger.mlp[0]} if "preactivation" in needs else {}
        return {"merger": self.merger, **hidden, **self.vision_encoder.taps(needs)}

    def collect(
        self,
        capture: Capture,
        pooled: Sequence[Tensor],
        call: Mapping[str, Any],
        needs: frozenset[str],
    ) -> list[VisualTokens]:
        """One entry per image; window order is undone."""
        grids = call["image_grid_thw"].cpu()
        order = sent(self.vision_encoder.language_order(grids), pooled[0].device)
        sizes = [len(p) for p in pooled]
        rows = self.vision_encoder.rows(capture, order, sizes, needs)
        if "features" in needs:
            rows["features"] = tokens_of(capture["merger"].args[0], order).split(sizes)
        if "preactivation" in needs and self._merger() is not None:
            rows["preactivation"] = tokens_of(capture["hidden_layer"].tensor, order).split(sizes)
        hidden = self.vision_encoder.hidden(capture, order, sizes) if "hidden" in needs else {}
        replays = (
            self.vision_encoder.replays(capture, order, sizes) if "replay" in needs else [None] * len(sizes)
        )
        by_layer = (
            self.vision_encoder.layer_attentions(capture, order, sizes) if "layer_attention" in needs else []
        )
        shared = self.projector_fields(needs)
        merge = self.visual.spatial_merge_size
        images = []
        for i, (projected, (t, h, w)) in enumerate(zip(pooled, grids.tolist(), strict=True)):
            fields: dict[str, Any] = {name: value[i] for name, value in rows.items()}
            if t == 1:
                fields["grid"] = (h // merge, w // merge)
            if "layer_attention" in needs:
                fields["layer_attention"] = by_layer[i]
            per_layer = {layer: value[i] for layer, value in hidden.items()}
            images.append(
                VisualTokens(projected=projected, hidden=per_layer, replay=replays[i], **shared, **fields)
            )
        return self.with_resizing(images, {**call, "image_grid_thw": grids}) if "resize" in needs else images

    def projector_fields(self, needs: frozenset[str]) -> dict[str, Any]:
        """The merger as a function, and its weights if they have the layout of stock checkpoints."""
        if "projector" not in needs:
            return {}
        return {"project": self.project, "mlp": self._merger()}

    def with_resizing(self, images: Sequence[VisualTokens], call: Mapping[str, Any]) -> list[VisualTokens]:
        """Add `pixels_encoder`, which needs only the pixels, to images that have one grid."""
        grids = call["image_grid_thw"]
        pixels = call["pixel_values"].split(grids.prod(dim=1).tolist())
        return [
            image if image.grid is None else replace(image, pixels_encoder=self._resized(patches, h, w))
            for image, patches, (_, h, w) in zip(images, pixels, grids.tolist(), strict=True)
        ]

    def project(self, x: Tensor) -> Tensor:
        """The merger on tokens [..., 4 Dv] -> [..., D]."""
        patches = x.reshape(-1, x.shape[-1] // self.visual.spatial_merge_unit)
        out: Tensor = self.merger(patches.to(compute_dtype(self.merger, self.model.dtype)))
        return out.view(*x.shape[:-1], out.shape[-1]).to(x.dtype)

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[VisualTokens]) -> Tensor:
        """Time, row and column of every token [3, B, L]."""
        merge = self.visual.spatial_merge_size
        grids = [(1, t.grid[0] * merge, t.grid[1] * merge) if t.grid else (1, 0, 0) for t in images]
        # On the host: `get_rope_index` asks for values of every row and image, and each would wait for a GPU.
        here, real = ids.cpu(), mask.cpu()
        positions: Tensor = self.vlm.get_rope_index(
            here,
            mm_token_type_ids=(here == self.image_token_id).int(),
            image_grid_thw=torch.tensor(grids) if grids else None,
            attention_mask=real.long(),
        )[0]
        return sent(positions, ids.device)

    def new_positions(self, mask: Tensor) -> Tensor:
        """Equal positions on every axis."""
        return count_positions(mask)[None].expand(3, -1, -1)

    def _merger(self) -> PatchMerger | None:
        mlp = self.weights.mlp()
        if mlp is None:
            return None
        if self._patch_merger is None or self._patch_merger.mlp is not mlp:
            norm: Any = loaded_copy(self.merger.ln_q)
            merger = PatchMerger(norm.weight.detach().float(), mlp, norm.variance_epsilon)
            self._patch_merger = kept_on_disk(merger)
        return self._patch_merger

    def _resized(self, patches: Tensor, h: int, w: int) -> Callable[[tuple[int, int]], Tensor]:
        """Z of an image, given as patches [h w, P], at another token grid."""
        config, merge = self.model.config.vision_config, self.visual.spatial_merge_size

        @torch.no_grad()
        def encode(grid: tuple[int, int]) -> Tensor:
            rows, columns = grid[0] * merge, grid[1] * merge
            small = resized_patches(patches, (h, w), (rows, columns), config, merge)
            thw = sent(torch.tensor([[1, rows, columns]]), patches.device)
            projected: Tensor = self.image_features(pixel_values=small, image_grid_thw=thw).pooler_output[0]
            return projected

        return encode


class QwenCosts:
    """FLOPs of Qwen2.5-VL's vision encoder with attention windows, and of its merger of 2 x 2 patches."""

    def __init__(self, config: Any) -> None:
        self.vision = config.vision_config
        self.unit = self.vision.spatial_merge_size**2
        # Visual tokens along one side of an attention window.
        self.window = self.vision.window_size // self.vision.patch_size // self.vision.spatial_merge_size

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """The exact cost of these images; those without a grid (several frames) are estimated."""
        parts = [self.guess(t.count) if t.grid is None else self.grid(*t.grid) for t in images]
        return Encoding(sum(p.encoder for p in parts), sum(p.projector for p in parts))

    def captured(self, images: Sequence[VisualTokens], needs: Collection[str]) -> int:
        """The cost of attention weights that selectors read, within each whole image."""
        layers = bool({"received_attention", "keys"} & set(needs)) + ("object_attention" in needs)
        patches = [t.count * self.unit for t in images]
        return layers * sum(linear(n, self.vision.hidden_size, n) for n in patches)

    def guess(self, n_visual: int) -> Encoding:
        """The cost of one image with `n_visual` visual tokens, as if it consisted of whole windows."""
        windows = n_visual / self.window**2
        return self._image(n_visual, round(windows * (self.unit * self.window**2) ** 2))

    def grid(self, rows: int, columns: int) -> Encoding:
        """The cost of an image of rows x columns visual tokens; windows at its edges are smaller."""
        squares = [
            sum(min(self.window, side - start) ** 2 for start in range(0, side, self.window))
            for side in (rows, columns)
        ]
        return self._image(rows * columns, self.unit**2 * squares[0] * squares[1])

    def _image(self, n_visual: int, window_pairs: int) -> Encoding:
        """`window_pairs`: query-key pairs of patches that share a window."""
        c, patches = self.vision, n_visual * self.unit
        width, full = c.hidden_size, len(c.fullatt_block_indexes)
        pairs = full * patches**2 + (c.depth - full) * window_pairs
        block = 4 * linear(patches, width, width) + 3 * linear(patches, width, c.intermediate_size)
        pixels = c.in_channels * c.temporal_patch_size * c.patch_size**2
        merged = self.unit * width
        return Encoding(
            linear(patches, pixels, width) + c.depth * block + 4 * pairs * width,
            linear(n_visual, merged, merged) + linear(n_visual, merged, c.out_hidden_size),
        )


class QwenProcessors:
    """Loads the processor of a checkpoint."""

    @staticmethod
    def from_pretrained(path: str, **options: Any) -> Any:
        """The stock processor, or one without its video processor where that cannot be loaded."""
        stock = qwen_processor_class()
        try:
            return stock.from_pretrained(path, **options)
        except OSError as error:
            # Checkpoints that were saved without torchvision have no settings of a video processor.
            if "video processor" not in str(error):
                raise
        return _without_videos().from_pretrained(path, **options)


def qwen_processor_class() -> Any:
    """The class of the stock processor, or one without its video processor, the part that needs torchvision."""
    from transformers import AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    return AutoProcessor if is_torchvision_available() else _without_videos()


def _without_videos() -> Any:
    """The stock processor without its video processor.

    `transformers` infers the parts of a processor from the signature of `__init__`, and loads each of them.
    """
    from transformers import Qwen2_5_VLProcessor as Stock
    from transformers.processing_utils import ProcessorMixin

    class Qwen2_5_VLProcessor(Stock):
        """Has the name of the stock class, so that the stock class can load what it saves."""

        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any
        ) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor

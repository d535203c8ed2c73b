"""Attention of CLIP and SigLIP encoders of families without an adapter of their own.

It is given only where the projector reads the patches of the encoder one by one and in order, which is proved by value:
its input holds the output of the encoder layer whose attention is read (or the norm of it, behind the last layer).
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.models.capture import Capture
from zoo_exp.models.clip_encoder import ClipEncoder
from zoo_exp.models.offloaded import at_hand

ATTENTION = frozenset({"cls_attention", "received_attention", "object_attention", "keys", "cls"})
_OF_CLS = frozenset({"cls_attention", "cls"})
_CLASSES = ("CLIPVisionModel", "CLIPVisionTransformer", "SiglipVisionModel", "SiglipVisionTransformer")
OTHER_ROWS = "its projector does not read one row per patch of the CLIP or SigLIP encoder, in order"
NO_CLS = "its SigLIP encoder has no CLS token"


class GenericEncoder:
    """A CLIP or SigLIP encoder, read at the deepest layer that the model's features come from.

    Attributes:
        gives: needs that it can fill.
        heads: attention heads of a layer.
    """

    def __init__(self, encoder: Any, layer: int | list[int]) -> None:
        count = len(encoder.encoder.layers)
        chosen = [layer] if isinstance(layer, int) else layer
        deepest = max(number % (count + 1) for number in chosen)
        has_cls = hasattr(encoder.embeddings, "class_embedding")
        settings = SimpleNamespace(
            vision_config=encoder.config,
            vision_feature_layer=deepest,
            vision_feature_select_strategy="default" if has_cls else "full",
        )
        self._clip = ClipEncoder(encoder, settings)
        self._norm: Any = getattr(encoder, "post_layernorm", None) if deepest == count else None
        self.gives = ATTENTION if has_cls else ATTENTION - _OF_CLS
        self.heads = self._clip.heads

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """Modules to capture for the given needs."""
        return self._clip.taps(needs & self.gives)

    def rows(self, capture: Capture, needs: frozenset[str], features: Tensor) -> dict[str, Tensor] | None:
        """Fields of `VisualTokens` over a batch of images [B, N, ...]; None where the projector reads other rows.

        Args:
            capture: of `taps`.
            needs: what selectors read.
            features: what the projector read, of all visual tokens in order [B N, W].
        """
        if len(capture.all.get("feature", ())) != 1:
            return None
        out = capture["feature"].tensor[:, self._clip.skip :]
        return self._clip.rows(capture, needs & self.gives) if self._is_read(out, features) else None

    @torch.no_grad()
    def _is_read(self, out: Tensor, features: Tensor) -> bool:
        """Whether the features hold these rows [B, N, D], alone or next to those of other layers."""
        width = out.shape[-1]
        if features.shape[0] != out.shape[0] * out.shape[1] or features.shape[1] % width:
            return False
        known = [out]
        if self._norm is not None:
            with at_hand(self._norm):
                known.append(nn.LayerNorm.forward(self._norm, out))
        parts = features.split(width, dim=1)
        return any(torch.equal(part, rows.flatten(0, 1)) for part in parts for rows in known)


def find_encoder(vlm: Any) -> GenericEncoder | None:
    """The only CLIP or SigLIP encoder of a model; None where there is none, or several."""
    found: list[Any] = [m for m in vlm.modules() if type(m).__name__ in _CLASSES and hasattr(m, "encoder")]
    if len(found) != 1 or not hasattr(found[0].encoder, "layers"):
        return None
    layer = getattr(vlm.config, "vision_feature_layer", None)
    return GenericEncoder(found[0], -1 if layer is None else layer)

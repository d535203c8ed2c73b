"""Fields of `VisualTokens` from a CLIP or SigLIP encoder, captured by hooks instead of eager attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.capture import Capture, attention_rows

_ATTENTION = frozenset({"cls_attention", "received_attention", "keys", "cls"})
_OBJECT_LAYER = 9 / 24
"""HiPrune's object layer, relative to the encoder's depth."""


class ClipEncoder:
    """The vision encoder of LLaVA-1.5 and LLaVA-NeXT.

    Attributes:
        skip: 1 if the model removes the CLS token before the projector, else 0.
        has_cls: whether the encoder has a CLS token.
        feature_layer: number of the encoder layer, from 0, whose output is the projector's input.
    """

    def __init__(self, encoder: Any, config: Any) -> None:
        self.encoder: Any = encoder
        self.layers: Any = self.encoder.encoder.layers
        self.patch_size: int = config.vision_config.patch_size
        self.heads: int = config.vision_config.num_attention_heads
        self.skip = 1 if config.vision_feature_select_strategy == "default" else 0
        self.has_cls = hasattr(self.encoder.embeddings, "class_embedding")
        chosen = config.vision_feature_layer
        last = chosen if isinstance(chosen, int) else chosen[-1]
        self.feature_layer = last % (len(self.layers) + 1) - 1

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """Modules to capture for the given needs."""
        wanted: dict[str, nn.Module] = {}
        if needs & _ATTENTION:
            layer = self.layers[self.feature_layer]
            wanted |= {"query": layer.self_attn.q_proj, "key": layer.self_attn.k_proj, "feature": layer}
        if needs & {"hidden", "replay"}:
            wanted |= {f"layer{i}": self.layers[i] for i in range(self.feature_layer + 1)}
        watched = set(range(1, len(self.layers) + 1)) if "layer_attention" in needs else set()
        if "object_attention" in needs:
            watched.add(self.object_layer)
        for number in watched:
            attention = self.layers[number - 1].self_attn
            wanted |= {f"query{number}": attention.q_proj, f"key{number}": attention.k_proj}
        return wanted

    @property
    def object_layer(self) -> int:
        """Number of HiPrune's object layer, from 1: 9 of 24."""
        return max(1, round(_OBJECT_LAYER * len(self.layers)))

    def rows(self, capture: Capture, needs: frozenset[str]) -> dict[str, Tensor]:
        """Fields of `VisualTokens` over a batch of images, [B, N, ...] (`cls` and `cls_key` [B, ...])."""
        fields: dict[str, Tensor] = {}
        if "object_attention" in needs:
            fields["object_attention"] = self._received(capture, self.object_layer, slice(None))
        if not needs & _ATTENTION:
            return fields
        query, key = capture["query"].tensor, capture["key"].tensor
        scale = (key.shape[-1] // self.heads) ** -0.5
        if "cls_attention" in needs and self.has_cls:
            rows = attention_rows(query[:, :1], key, self.heads, scale)
            fields["cls_attention"] = rows[:, :, 0].mean(dim=1)[:, self.skip :]
        if "received_attention" in needs:
            fields["received_attention"] = self._mean_received(query, key)
        mean_key = key.unflatten(-1, (self.heads, -1)).mean(dim=2)
        if "keys" in needs:
            fields["keys"] = mean_key[:, self.skip :]
        if "cls" in needs and self.has_cls:
            fields["cls"], fields["cls_key"] = capture["feature"].tensor[:, 0], mean_key[:, 0]
        return fields

    def layer_attention(
        self, capture: Capture, images: slice, source: Tensor | None = None
    ) -> Callable[[int], Tensor]:
        """Attention that each token receives at an encoder layer, as a function of the layer's number from 1.

        Args:
            capture: with the queries and keys of every layer.
            images: the tiles of one image.
            source: flat patch number of each visual token [N], -1 for newlines; None for all in order.
        """
        count = len(self.layers)

        def received(number: int) -> Tensor:
            if not 1 <= number <= count:
                raise InvalidValueError(
                    f"encoder layer {number}: the vision encoder has {count}, give 1 to {count}"
                )
            flat = self._received(capture, number, images).flatten()
            if source is None:
                return flat
            return torch.where(source >= 0, flat[source.clamp(min=0)], torch.zeros_like(flat[:1]))

        return received

    def _received(self, capture: Capture, number: int, images: slice) -> Tensor:
        """Mean attention that the patches of some images receive at a layer, from 1: [B, N]."""
        query, key = capture[f"query{number}"].tensor[images], capture[f"key{number}"].tensor[images]
        return self._mean_received(query, key)

    def _mean_received(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention that each patch receives from queries and keys [B, 1 + N, H d]: mean over heads and all queries."""
        scale = (key.shape[-1] // self.heads) ** -0.5
        # Image by image: [H, N, N] at a time.
        received = [
            attention_rows(q, k, self.heads, scale).mean(dim=(0, 1)) for q, k in zip(query, key, strict=True)
        ]
        return torch.stack(received)[:, self.skip :]

    def hidden(self, capture: Capture, images: slice) -> dict[int, Tensor]:
        """Outputs of the encoder layers up to the feature layer, from 1, for some images: [n * N, Dv] each."""
        return {
            i + 1: capture[f"layer{i}"].tensor[images, self.skip :].flatten(0, 1)
            for i in range(self.feature_layer + 1)
        }

    def replay(
        self, capture: Capture, images: slice, source: Tensor | None = None
    ) -> Callable[[int, Tensor], Tensor]:
        """The encoder from a layer to the feature layer, as a function of that layer's patch features.

        The result is the projector's input. The CLS token, and patches without a visual token, keep their values.

        Args:
            capture: with the encoder layers up to the feature layer.
            images: the tiles of one image.
            source: flat patch number of each visual token [N], -1 for newlines; None for all in order.
        """
        calls = [capture[f"layer{i}"] for i in range(self.feature_layer + 1)]
        skip = self.skip

        @torch.no_grad()
        def run(number: int, hidden: Tensor) -> Tensor:
            state = calls[number - 1].tensor[images]
            place = torch.arange(hidden.shape[-2], device=hidden.device) if source is None else source
            real = place >= 0
            lead, width = hidden.shape[:-2], hidden.shape[-1]
            rows = hidden.reshape(-1, hidden.shape[-2], width).to(state.dtype)
            patches = state[:, skip:].flatten(0, 1).repeat(len(rows), 1, 1)
            patches[:, place[real]] = rows[:, real]
            x = torch.cat(
                [state[:, :skip].repeat(len(rows), 1, 1), patches.reshape(-1, state.shape[1] - skip, width)],
                dim=1,
            )
            for layer, call in zip(self.layers[number : len(calls)], calls[number:], strict=True):
                rest = {k: v for k, v in call.kwargs.items() if k != "hidden_states"}
                out = layer(x, *call.args[1:], **rest)
                x = out[0] if isinstance(out, tuple) else out
            flat = x[:, skip:].reshape(len(rows), -1, width)
            answer = torch.zeros_like(rows)
            answer[:, real] = flat[:, place[real]]
            return answer.reshape(*lead, *hidden.shape[-2:]).to(hidden.dtype)

        return run

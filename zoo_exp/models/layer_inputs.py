"""Inputs of decoder layers for a shortened sequence: masks and rotary embeddings by layer type."""

import inspect
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.attention_masks import Part, windows_of, write_part
from zoo_exp.models.segments import Segment

INSTEAD = "take a selector before the language model, such as zoo or divprune"
"""Advice in messages about decoders that do not support layer selectors."""
_KINDS = ("", "full_attention", "sliding_attention", "chunked_attention")


class LayerInputs:
    """Computes masks and rotary embeddings like the language model, for each of its layer types.

    Args:
        llm: the language model.
        verify: compare the first rotary embeddings of every kind with the language model's own.
    """

    def __init__(self, llm: Any, *, verify: bool = False) -> None:
        self._llm = llm
        self._kinds = list(getattr(llm.config, "layer_types", None) or [""] * len(llm.layers))
        self._verify = verify
        self._verified: set[str] = set()
        self._skipped = 0  # leading axes that the rotary embeddings do not read (text positions)

    def kind(self, number: int) -> str:
        """Layer type of a layer, or "" if there is only one."""
        return str(self._kinds[number]) if number < len(self._kinds) else ""

    def check(self, name: str, first: int) -> None:
        """Refuse decoders with layers from `first` on that are not attention with a known window.

        Raises:
            InvalidValueError: there are such layers; the message names their types.
        """
        odd = sorted({self.kind(n) for n in range(first, len(self._llm.layers))} - set(_KINDS))
        if odd:
            raise InvalidValueError(
                f"selector {name} drops tokens between decoder layers, and this model has layers of kind "
                f"{', '.join(odd)} behind them: {INSTEAD}"
            )
        if not hasattr(self._llm, "rotary_emb"):
            raise InvalidValueError(
                f"selector {name} needs a decoder with rotary positions in one module: {INSTEAD}"
            )

    def verify(self, number: int, hidden: Tensor, positions: Tensor, given: Any) -> None:
        """Compare rotary embeddings of the whole prompt with the language model's own, once per kind.

        Raises:
            InvalidValueError: they differ, or the layers receive them in another form.
        """
        kind = self.kind(number)
        if not self._verify or kind in self._verified:
            return
        for self._skipped in range(positions.ndim - 1):
            if _is_pair(given) and self._equal(kind, hidden, positions, given):
                self._verified.add(kind)
                return
        raise InvalidValueError(
            f"layer selectors cannot renew the rotary positions of this decoder: {INSTEAD}"
        )

    def _equal(self, kind: str, hidden: Tensor, positions: Tensor, given: Any) -> bool:
        try:
            made = self.rotary(kind, hidden, positions)
        except (RuntimeError, ValueError, IndexError):
            return False
        return _is_pair(made) and all(
            m.shape[1:] == g.shape[1:] and bool(((m - g).abs() < 1e-4).all())
            for m, g in zip(made, given, strict=True)
        )

    def rotary(self, kind: str, hidden: Tensor, positions: Tensor) -> Any:
        """Rotary embeddings of a layer type, at positions [B, n] or [A, B, n]."""
        rotary = self._llm.rotary_emb
        places = positions[self._skipped :] if positions.ndim == 3 else positions
        if "layer_type" in inspect.signature(rotary.forward).parameters:
            return rotary(hidden, places, kind)
        return rotary(hidden, places)

    def part(self, segment: Segment, kind: str) -> Part:
        """Window and blocks of a layer type."""
        if segment.parts is not None:
            return segment.parts[kind] if kind in segment.parts else next(iter(segment.parts.values()))
        window, chunk = windows_of(self._llm.config).get(kind, (None, None))
        if kind == "":
            window = getattr(self._llm.config, "sliding_window", None)
        return Part(torch.full_like(segment.source, -1), window, chunk)

    def allowed(self, segment: Segment, number: int) -> Tensor | None:
        """Keys that each query of a layer can attend to [B, n, n] (bool); None for causal attention."""
        part = self.part(segment, self.kind(number))
        if segment.parts is None and part.window is None and part.chunk is None:
            return None
        return part.allowed(segment.mask)

    def arguments(
        self,
        number: int,
        segment: Segment,
        hidden: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any,
        given: Any,
    ) -> dict[str, Any]:
        """Arguments of a layer that replace mask and positions.

        Args:
            number: number of the layer.
            segment: the segment that it reads.
            hidden: its input [B, q, D].
            mask: real tokens [B, S].
            positions: positions of the tokens in `hidden`.
            cache: the key-value cache, or None.
            given: the language model's mask for the full sequence.
        """
        kind = self.kind(number)
        if segment.parts is not None and hidden.shape[1] == segment.length and isinstance(given, Tensor):
            own = write_part(self.part(segment, kind), segment.mask, given)
        else:
            own = self._built(kind, number, hidden, mask, cache)
        return {
            "attention_mask": own,
            "position_embeddings": self.rotary(kind, hidden, positions),
            "position_ids": None,
        }

    def _built(self, kind: str, number: int, hidden: Tensor, mask: Tensor, cache: Any) -> Any:
        from transformers import masking_utils

        config = self._llm.config
        windowed = kind == "sliding_attention" or (
            kind == "" and getattr(config, "sliding_window", None) is not None
        )
        if kind == "chunked_attention":
            make = masking_utils.create_chunked_causal_mask
        elif windowed:
            make = masking_utils.create_sliding_window_causal_mask
        else:
            make = masking_utils.create_causal_mask
        return make(
            config=config, inputs_embeds=hidden, attention_mask=mask, past_key_values=cache, layer_idx=number
        )


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, Tensor) for v in value)

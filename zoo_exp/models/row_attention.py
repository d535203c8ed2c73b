"""Attention of selected rows of a decoder layer, computed from its projections and verified by its output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.core.sending import sent
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.layer_inputs import INSTEAD
from zoo_exp.models.segments import Segment

_HALF = 0.05
TURNS = ("halves", "pairs", "pairs as given", "none")
"""How rotary embeddings may turn a head: its halves (LLaMA), or its pairs of neighbours, with angles laid out for
halves (GLM) or for pairs (Cohere), or not at all (layers without positions). The layer's own output says which."""
_FULL = 1e-3
_PLAIN = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen2_5_VLAttention")
_NORMS = ("norm", "layernorm")


def watch(layer: nn.Module, name: str, number: int) -> dict[str, tuple[nn.Module, bool]]:
    """Modules of a layer's attention whose output (or input, if the flag is set) determines its queries and keys.

    Args:
        layer: a decoder layer.
        name: name of the selector, for messages.
        number: number of the layer, from 0.

    Raises:
        InvalidValueError: the attention has neither separate projections for queries and keys nor a fused one.
    """
    attention = getattr(layer, "self_attn", None)
    fused = getattr(attention, "qkv_proj", None)
    single = {n: getattr(attention, n, None) for n in ("q_proj", "k_proj", "v_proj")}
    if attention is None or (fused is None and (single["q_proj"] is None or single["k_proj"] is None)):
        kind = type(layer).__name__ if attention is None else type(attention).__name__
        raise InvalidValueError(
            f"selector {name} reads the attention of decoder layer {number}, which is a {kind} without q_proj and "
            f"k_proj (or qkv_proj): {INSTEAD}"
        )
    found = {n: m for n, m in single.items() if m is not None} if fused is None else {"qkv_proj": fused}
    for part in "qkv":
        norm = next((m for n in _NORMS if (m := getattr(attention, f"{part}_{n}", None)) is not None), None)
        found |= {} if norm is None else {f"{part}_norm": norm}
    watched = {n: (m, False) for n, m in found.items()}
    last = getattr(attention, "o_proj", None) or getattr(attention, "out_proj", None)
    return watched | ({"o_proj": (last, True)} if last is not None else {})


def plain(layer: Any) -> bool:
    """Whether a layer's attention has no window and is of a kind that tests compare with a slow reference."""
    attention = getattr(layer, "self_attn", None)
    return type(attention).__name__ in _PLAIN and getattr(attention, "sliding_window", None) is None


class RowAttention:
    """Attention of selected rows of one layer.

    Args:
        attention: the layer's attention module.
        noted: outputs of the modules returned by `watch` [B, n, ...], and `position_embeddings` [B, n, d].
        segment: the segment that the layer reads.
        allowed: keys that each query can attend to [B, n, n] (bool); None for causal attention.
    """

    def __init__(
        self, attention: Any, noted: dict[str, Any], segment: Segment, allowed: Tensor | None = None
    ) -> None:
        self._attention = attention
        self._turn = str(noted.get("turn", TURNS[0]))
        self._noted = noted
        self._queries, self._keys, self._values = self._projections(segment.length)
        self._cos, self._sin = noted["position_embeddings"]
        self._mask, self._allowed = segment.mask, allowed

    def rows(self, b: int, index: Tensor) -> Tensor:
        """Probabilities [H, r, n] of the query rows `index` [r] of batch row b."""
        query = self._rotate(self._queries[b, index], b, index)
        key = self._rotate(self._keys[b], b, None)
        key = key.repeat_interleave(len(query) // len(key), dim=0)
        logits = query @ key.transpose(-1, -2) * self._attention.scaling
        cap = getattr(self._attention, "attn_logit_softcapping", None)
        if cap:
            logits = cap * torch.tanh(logits / cap)
        if self._allowed is None:
            column = torch.arange(key.shape[1], device=key.device)
            hidden = (column > index[:, None]) | ~self._mask[b]
        else:
            hidden = ~self._allowed[b, index]
        probabilities: Tensor = logits.float().masked_fill(hidden, float("-inf")).softmax(dim=-1)
        return probabilities

    def keys(self, b: int) -> Tensor:
        """Rotated keys of batch row b [n, Hkv * d]."""
        return self._rotate(self._keys[b], b, None).transpose(0, 1).flatten(1)

    def gravity(self, b: int, index: Tensor) -> Tensor:
        """Product of rotated vectors of ones, over sqrt(d), of rows `index` [r] with all: [r, n]."""
        ones = self._keys.new_ones(self._keys.shape[1], self._attention.head_dim, dtype=torch.float32)
        turned = self._rotate(ones, b, None)[0]
        product: Tensor = turned[index] @ turned.T * self._attention.head_dim**-0.5
        return product

    def prove(self, name: str) -> None:
        """Verify the probabilities with the layer's output for the last token of each row.

        Raises:
            InvalidValueError: the output does not match.
        """
        done = self._noted.get("o_proj")
        if done is None or self._values is None:
            raise self._unknown(name, "its values or its output projection are not found")
        last = sent([self._mask.shape[1] - 1, self._mask.shape[1] // 2], self._mask.device)
        for self._turn in TURNS:
            if all(self._fits(done[b], b, last[self._mask[b, last]]) for b in range(len(done))):
                self._noted["turn"] = self._turn
                return
        raise self._unknown(
            name, "its probabilities, worked out from queries and keys, do not give its output"
        )

    def _fits(self, done: Tensor, b: int, rows: Tensor) -> bool:
        probabilities = self.rows(b, rows)
        values = self._values[b].unflatten(-1, (-1, self._attention.head_dim)).transpose(0, 1).float()
        values = values.repeat_interleave(len(probabilities) // len(values), dim=0)
        expected = (probabilities @ values).transpose(0, 1).flatten(1)
        given = done.reshape(self._mask.shape[1], -1)[rows].float()
        if expected.shape != given.shape:
            return False
        limit = _FULL if done.dtype in (torch.float32, torch.float64) else _HALF
        return float((expected - given).abs().max()) <= limit * float(given.abs().max())

    def _unknown(self, name: str, why: str) -> InvalidValueError:
        return InvalidValueError(
            f"selector {name} cannot read the attention of {type(self._attention).__name__}, as {why}: {INSTEAD}"
        )

    def _projections(self, length: int) -> tuple[Tensor, Tensor, Any]:
        """Queries, keys and values [B, n, heads * d], after their norms (if any)."""
        if "qkv_proj" in self._noted:
            fused = self._noted["qkv_proj"]
            d = self._attention.head_dim
            groups = self._attention.num_key_value_groups
            kv = fused.shape[-1] // (d * (groups + 2))
            parts = dict(zip("qkv", fused.split([kv * groups * d, kv * d, kv * d], dim=-1), strict=True))
        else:
            parts = {n: self._noted.get(f"{n}_proj") for n in "qkv"}
        for n in "qkv":
            if f"{n}_norm" in self._noted:
                parts[n] = _flat(self._noted[f"{n}_norm"], length)
        queries, keys = parts["q"], parts["k"]
        assert queries is not None
        assert keys is not None
        return queries, keys, parts["v"]

    def _rotate(self, x: Tensor, b: int, index: Tensor | None) -> Tensor:
        cos, sin = (t[b if len(t) > 1 else 0] for t in (self._cos, self._sin))
        if index is not None:
            cos, sin = cos[index], sin[index]
        heads_all = x.unflatten(-1, (-1, self._attention.head_dim)).transpose(0, 1)
        width = cos.shape[-1] if self._turn != "none" else 0
        heads = heads_all[..., :width]
        rest: Tensor = heads_all[..., width:]
        if not width:
            return rest
        if self._turn != "halves":
            if self._turn == "pairs":
                cos, sin = (t[..., : width // 2].repeat_interleave(2, dim=-1) for t in (cos, sin))
            turned = heads * cos + torch.stack([-heads[..., 1::2], heads[..., ::2]], dim=-1).flatten(-2) * sin
        else:
            low, high = heads.chunk(2, dim=-1)
            turned = heads * cos + torch.cat([-high, low], dim=-1) * sin
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def _flat(normed: Tensor, length: int) -> Tensor:
    """Concatenated heads [B, n, H * d], from [B, n, H, d], [B, H, n, d] or [B, n, H * d]."""
    if normed.ndim == 4:
        normed = normed if normed.shape[1] == length else normed.transpose(1, 2)
        return normed.flatten(2)
    return normed


def note(noted: Callable[[], dict[str, Any] | None], name: str, inside: bool) -> Callable[..., None]:
    """Hook that stores a module's output, or its first input, under `name`."""

    def outcome(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        if (into := noted()) is not None:
            into[name] = output.detach()

    def income(_: nn.Module, args: tuple[Any, ...]) -> None:
        if (into := noted()) is not None and args:
            into[name] = args[0].detach()

    return income if inside else outcome

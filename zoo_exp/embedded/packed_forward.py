"""The model's forward pass over packed questions: the same numbers as the stock classes, without the waste.

One picture serves about twenty questions, so the visual prefix runs once, questions attend to the prefix and
to themselves, and the last layers compute only the rows that a loss reads. A test compares with the stock forward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.vocabulary import BOS, TOKEN_ID, USER

PREFIX_TEXT = (TOKEN_ID[BOS], TOKEN_ID[USER])


def vision_forward(tower: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Patch features of the last layer but one [B, N, Dv], and the pooled CLS of the last layer [B, Dv]."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    *layers, last = tower.encoder.layers
    for layer in layers:
        normed = layer.layer_norm1(hidden)
        hidden = hidden + _tower_attention(layer.self_attn, normed, normed)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    normed = last.layer_norm1(hidden)
    pooled = hidden[:, :1] + _tower_attention(last.self_attn, normed[:, :1], normed)
    pooled = pooled + last.mlp(last.layer_norm2(pooled))
    return hidden[:, 1:], tower.post_layernorm(pooled[:, 0])


def _tower_attention(attention: nn.Module, rows: Tensor, everything: Tensor) -> Tensor:
    heads = attention.num_heads
    query, key, value = (
        projection(inputs).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, inputs in (
            (attention.q_proj, rows),
            (attention.k_proj, everything),
            (attention.v_proj, everything),
        )
    )
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def text_forward(
    llm: nn.Module, visual: Tensor, ids: Tensor, segment: Tensor, position: Tensor, shift: int
) -> Tensor:
    """Final hidden states of the packed questions [B, L, D].

    Args:
        llm: the `LlamaModel`.
        visual: projected visual tokens [B, N, D].
        ids: packed text tokens [B, L].
        segment: question number of each token [B, L].
        position: place of each token in its question [B, L].
        shift: gap between the prefix and the first text position, random per step in training, so that a
            shortened prefix with contiguous positions is nothing new to the model.
    """
    return prefixed_forward(llm, visual, (ids, segment, position), shift)[0]


def prefixed_forward(
    llm: nn.Module,
    visual: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    shift: int = 0,
    places: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states of packed questions, and the visual tokens' states after a layer [B, K, D].

    Args:
        llm: the `LlamaModel`.
        visual: visual tokens [B, K, D].
        text: ids, segment and position [B, L] each.
        shift: gap between the visual tokens and the questions.
        places: number of each visual token among all of an image's [B, K], where positions stay original (and
            `shift` says how many tokens are gone). None takes contiguous ones.
        options: `probe_after`, `rows` and `compute` of `decode_packed`.
    """
    ids, segment, position = text
    batch, start = len(ids), len(PREFIX_TEXT)
    head = llm.embed_tokens(torch.tensor([PREFIX_TEXT], device=ids.device)).expand(batch, -1, -1)
    prefix = torch.cat([head, visual], 1)
    where = torch.arange(prefix.shape[1], device=ids.device)[None]
    if places is not None:
        where = torch.cat([where[:, :start].expand(batch, -1), places + start], 1)
    text_rope = rope(llm, prefix.shape[1] + shift + position)
    hidden, probed = decode_packed(
        llm, prefix, rope(llm, where), llm.embed_tokens(ids), text_rope, segment, **options
    )
    return hidden, None if probed is None else probed[:, start:]


Rope = tuple[Tensor, Tensor]


def decode_packed(
    llm: nn.Module,
    prefix: Tensor,
    prefix_rope: Rope,
    text: Tensor,
    text_rope: Rope,
    segment: Tensor,
    probe_after: int = 0,
    rows: Tensor | None = None,
    compute: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states of the text [B, L, D], and the prefix's after layer `probe_after` [B, P, D] (0: None).

    Args:
        llm: a Llama or Qwen2 decoder.
        prefix: embedded prefix with the visual tokens [B, P, D].
        prefix_rope: cosine and sine of its positions.
        text: embedded questions [B, L, D].
        text_rope: cosine and sine of their positions.
        segment: question number of each text token [B, L].
        probe_after: number of the layer whose prefix states are returned as well.
        rows: text tokens whose final states are wanted [B, R]; the last layer computes no others. None: all.
        compute: number format of the layers; the residual stream stays in float32.
    """
    head_dim = llm.config.hidden_size // llm.config.num_attention_heads
    n_prefix = prefix.shape[1]
    mask = _packed_mask(segment, n_prefix)
    probed = None
    prefix_rope, text_rope = (tuple(part.to(compute) for part in pair) for pair in (prefix_rope, text_rope))
    *layers, last = llm.layers
    for number, layer in enumerate(layers, 1):
        attention = layer.self_attn
        q, k, v = _project(attention, _rms(layer.input_layernorm, prefix).to(compute), head_dim, prefix_rope)
        tq, tk, tv = _project(attention, _rms(layer.input_layernorm, text).to(compute), head_dim, text_rope)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        read = functional.scaled_dot_product_attention(
            tq, torch.cat([k, tk], 2), torch.cat([v, tv], 2), attn_mask=mask
        )
        mixed = torch.cat([seen, read], 2).transpose(1, 2).flatten(2)
        both = torch.cat([prefix, text], 1) + _linear(attention.o_proj, mixed)
        both = both + _mlp(layer.mlp, _rms(layer.post_attention_layernorm, both).to(compute))
        prefix, text = both[:, :n_prefix], both[:, n_prefix:]
        if number == probe_after:
            probed = prefix
    attention = last.self_attn
    normed = _rms(last.input_layernorm, prefix).to(compute)
    k, v = (
        _linear(p, normed).unflatten(-1, (-1, head_dim)).transpose(1, 2)
        for p in (attention.k_proj, attention.v_proj)
    )
    tq, tk, tv = _project(attention, _rms(last.input_layernorm, text).to(compute), head_dim, text_rope)
    if rows is not None:
        tq = tq.gather(2, rows[:, None, :, None].expand(-1, tq.shape[1], -1, tq.shape[3]))
        mask = mask.gather(2, rows[:, None, :, None].expand(-1, -1, -1, mask.shape[3]))
        text = text.gather(1, rows[..., None].expand(-1, -1, text.shape[2]))
    keys = torch.cat([_rotate(k, prefix_rope), tk], 2)
    read = functional.scaled_dot_product_attention(tq, keys, torch.cat([v, tv], 2), attn_mask=mask)
    text = text + _linear(attention.o_proj, read.transpose(1, 2).flatten(2))
    text = text + _mlp(last.mlp, _rms(last.post_attention_layernorm, text).to(compute))
    return _rms(llm.norm, text), probed


def _linear(layer: nn.Module, states: Tensor) -> Tensor:
    """A linear layer in the number format of its input."""
    bias = None if layer.bias is None else layer.bias.to(states.dtype)
    return functional.linear(states, layer.weight.to(states.dtype), bias)


def _mlp(mlp: nn.Module, states: Tensor) -> Tensor:
    """The gated MLP of Llama and Qwen2."""
    gated = functional.silu(_linear(mlp.gate_proj, states)) * _linear(mlp.up_proj, states)
    return _linear(mlp.down_proj, gated)


def _rms(norm: nn.Module, states: Tensor) -> Tensor:
    """The stock RMS norm as one fused kernel, which takes half of its time."""
    return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)


def _packed_mask(segment: Tensor, n_prefix: int) -> Tensor:
    """Which of [prefix | text] each text token may read [B, 1, L, n_prefix + L]."""
    batch, length = segment.shape
    causal = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    own = causal & (segment[:, None, :] == segment[:, :, None])
    return torch.cat([own.new_ones(batch, length, n_prefix), own], 2)[:, None]


def _project(attention: nn.Module, normed: Tensor, head_dim: int, turn: Rope) -> tuple[Tensor, ...]:
    q, k, v = (
        _linear(projection, normed).unflatten(-1, (-1, head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    return _rotate(q, turn), _rotate(k, turn), v


def rope(llm: nn.Module, position: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding [1 or B, 1, L, head_dim]."""
    angle = position[..., None].float() * llm.rotary_emb.inv_freq
    angle = torch.cat([angle, angle], -1)[:, None]
    return angle.cos(), angle.sin()


def _rotate(states: Tensor, turn: Rope) -> Tensor:
    cos, sin = turn
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin

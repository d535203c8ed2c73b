"""Cut the call of a language model to the kept tokens: every argument that has a row or column per token.

Unknown arguments and outputs are refused: one that keeps its old length would cause an error or wrong results.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.attention_masks import write_mask
from zoo_exp.models.segments import Segment

PER_TOKEN = ("per_layer_inputs", "visual_pos_masks")
"""Arguments [B, L, ...] with an entry per token of the prompt."""
PER_VISUAL_TOKEN = ("deepstack_visual_embeds",)
"""Arguments [V, D], or a list or dict of them, with a row per entry of `visual_pos_masks`."""
_OUTPUTS = ("last_hidden_state", "past_key_values", "hidden_states", "attentions", "router_logits")


def cut_call(
    kwargs: Mapping[str, Any], embeds: Tensor, order: Tensor, segment: Segment, encoder_inputs: Sequence[str]
) -> dict[str, Any]:
    """Cut the arguments to the kept tokens.

    Args:
        kwargs: the arguments for the whole prompt.
        embeds: embeddings of the kept tokens [B, n, D].
        order: their columns in the prompt [B, n].
        segment: the pruned sequence.
        encoder_inputs: names of the vision encoder's inputs, which some models pass through unused.

    Raises:
        InvalidValueError: an unknown argument contains tensors.
    """
    mask = kwargs.get("attention_mask")
    # Always with a mask: without one, transformers interprets positions with gaps as packed sequences.
    cut: dict[str, Any] = {
        "inputs_embeds": embeds,
        "attention_mask": segment.mask.long()
        if segment.parts is None
        else write_mask(segment.parts, segment.mask, mask),
        "position_ids": segment.positions,
        **({} if last_only(kwargs) else all_states(kwargs)),
    }
    for name, value in kwargs.items():
        if name in cut or not _has_tensor(value) or name in encoder_inputs:
            continue
        if name == "cache_position":
            cut[name] = value[: segment.length]
        elif name in PER_TOKEN:
            index = order.reshape(*order.shape, *[1] * (value.ndim - 2)).to(value.device)
            cut[name] = value.gather(1, index.expand(*order.shape, *value.shape[2:]))
        elif name in PER_VISUAL_TOKEN and isinstance(kwargs.get("visual_pos_masks"), Tensor):
            rows = _kept_rows(kwargs["visual_pos_masks"], order, segment.mask)
            cut[name] = _pick_rows(name, value, rows, int(kwargs["visual_pos_masks"].sum()))
        else:
            raise InvalidValueError(
                f"this model hands its language model the argument {name} ({_describe(value)}), which pruning does not "
                "know how to cut to the kept tokens: run it without pruning"
            )
    if isinstance(cut.get("visual_pos_masks"), Tensor):
        cut["visual_pos_masks"] = cut["visual_pos_masks"] & segment.mask.to(cut["visual_pos_masks"].device)
    return {**kwargs, **cut}


def check_output(output: Any, length: int) -> None:
    """Check that the language model's output has one state per token.

    Raises:
        InvalidValueError: no `last_hidden_state` [B, `length`, D], or unknown fields.
    """
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim != 3 or states.shape[1] != length:
        what = tuple(states.shape) if isinstance(states, Tensor) else type(output).__name__
        raise InvalidValueError(
            f"the language model of this family answers with {what}, not with one state for each of the {length} "
            "tokens: it cannot be pruned"
        )
    unknown = [name for name in output if name not in _OUTPUTS and _has_tensor(output[name])]
    if unknown:
        raise InvalidValueError(
            f"the language model of this family also answers with {', '.join(unknown)}, which pruning does not know: "
            "run it without pruning"
        )


def refuse_positional(args: Sequence[Any]) -> None:
    """Refuse positional arguments with tensors.

    Raises:
        InvalidValueError: there are such arguments.
    """
    if any(_has_tensor(value) for value in args):
        raise InvalidValueError(
            "this model calls its language model with unnamed arguments, which pruning cannot tell apart: run it "
            "without pruning"
        )


def _kept_rows(visual: Tensor, order: Tensor, mask: Tensor) -> Tensor:
    """Indices of the kept visual tokens among all visual tokens of the batch."""
    order, mask = order.to(visual.device), mask.to(visual.device)
    number = (visual.flatten().long().cumsum(0) - 1).view_as(visual)
    return number.gather(1, order)[visual.gather(1, order) & mask]


def _pick_rows(name: str, value: Any, rows: Tensor, count: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _pick_rows(name, one, rows, count) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_pick_rows(name, one, rows, count) for one in value]
    if not isinstance(value, Tensor) or len(value) != count:
        raise InvalidValueError(f"the argument {name} has {_describe(value)} for {count} visual tokens")
    return value[rows.to(value.device)]


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Mapping):
        return any(_has_tensor(one) for one in value.values())
    return isinstance(value, list | tuple) and any(_has_tensor(one) for one in value)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def without_cache(kwargs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The same call without a cache: removes mask columns for the free space of a static cache."""

    def narrow(mask: Any) -> Any:
        if isinstance(mask, Mapping):
            return {name: narrow(one) for name, one in mask.items()}
        return mask[..., :length] if isinstance(mask, Tensor) and mask.ndim == 4 else mask

    plain = {**kwargs, "past_key_values": None, "use_cache": False}
    mask = narrow(kwargs.get("attention_mask"))
    if mask is None:
        embeds = kwargs["inputs_embeds"]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return {**plain, "attention_mask": mask, **all_states(kwargs)}


def last_only(kwargs: Mapping[str, Any]) -> bool:
    """Whether a language model that shares keys between layers may return only the last token's state (Gemma 4)."""
    keep = kwargs.get("logits_to_keep")
    return type(keep) is int and keep == 1


def all_states(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of a call's arguments that make it return the states of all tokens."""
    return {"logits_to_keep": 0} if "logits_to_keep" in kwargs else {}


def full_length(hidden: Tensor, last: Segment, origin: Tensor, length: int) -> Tensor:
    """Hidden states at the positions of the original prompt [B, L, D]; zeros for dropped tokens.

    Logits then have the length of `input_ids`, and match labels. The last column is always that of the last token.

    Args:
        hidden: states after the last layer [B, n, D].
        last: the segment of the last layer.
        origin: column in the original prompt of every token that entered the first layer [B, n0]; -1 for padding.
        length: L.
    """
    last = last.to(hidden.device)
    column = origin.to(hidden.device).gather(1, last.source.clamp(min=0))
    column = column.masked_fill(last.source < 0, length).masked_fill(column < 0, length)
    wide = hidden.new_zeros(len(hidden), length + 1, hidden.shape[-1])
    wide = wide.scatter(1, column[..., None].expand_as(hidden), hidden)[:, :-1]
    ends = column[:, -1:] == length - 1
    return torch.where(ends[..., None], wide, torch.cat([wide[:, :-1], hidden[:, -1:]], dim=1))

"""Self-check of models without their own adapter: keeping every token must give the unpruned states."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.llm_call import check_output, cut_call, full_length, without_cache
from zoo_exp.models.segments import Segment

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Maximum difference relative to the largest state; wrong masks or positions give much larger differences."""
_HALF = 0.05


@torch.no_grad()
def check_keep_all(adapter: VLMAdapter, kwargs: Mapping[str, Any], given: Segment) -> None:
    """Run the language model on the original prompt and on a pruned prompt that keeps every token, and compare.

    Args:
        adapter: adapter of the model.
        kwargs: arguments of the language model's call, with an empty cache.
        given: the whole prompt.

    Raises:
        InvalidValueError: the states differ.
    """
    if adapter.llm.training:
        return
    length = given.length
    call = without_cache(kwargs, length)
    plain = adapter.llm.forward(**call)
    order, segment = given.shorten(given.mask, 0, "original")
    embeds = call["inputs_embeds"]
    embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
    cut = adapter.llm.forward(**cut_call(call, embeds, order, segment, adapter.encoder_inputs))
    check_output(cut, segment.length)
    states = full_length(cut.last_hidden_state, segment, segment.source, length)
    off = _difference(plain.last_hidden_state, states, given.mask)
    if not off <= TOLERANCE.get(states.dtype, _HALF):
        raise InvalidValueError(
            f"{adapter.family_name} cannot be pruned: with every token kept, its language model's states differ by "
            f"{off:.1e} of their size from the unpruned ones. Run it without pruning; self_check=False switches this "
            "check off"
        )


def _difference(one: Tensor, other: Tensor, real: Tensor) -> float:
    """Largest difference between states [B, L, D] of real tokens, divided by the largest state."""
    real = real.to(one.device)
    a, b = one[real].double(), other.to(one.device)[real].double()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))

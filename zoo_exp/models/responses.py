"""The text and the length of responses, from generated ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import Selection
from zoo_exp.models.generators import end_ids


@dataclass(frozen=True)
class Answer:
    """The response to one prompt.

    Attributes:
        text: up to the first stop text, stripped.
        kept_tokens: visual tokens that entered the language model.
        layer_tokens: visual tokens at the input of every decoder layer; None for input selectors.
        prompt_tokens: all tokens that entered the language model.
        new_tokens: generated tokens, including the end-of-sequence token.
        selections: selection of each image before the language model; all tokens for layer selectors.
    """

    text: str
    kept_tokens: int
    layer_tokens: list[int] | None
    prompt_tokens: int
    new_tokens: int
    selections: list[Selection]


def count_new(model: Any, new_tokens: Tensor) -> list[int]:
    """Number of generated tokens in every row of [B, T], including the end-of-sequence token if the model has one."""
    ends = end_ids(model)
    if not ends:
        return [new_tokens.shape[1]] * len(new_tokens)
    marks = torch.as_tensor(ends, device=new_tokens.device)
    ended = torch.isin(new_tokens, marks).cumsum(dim=1).clamp(max=1)
    counts: list[int] = (new_tokens.shape[1] - ended.sum(dim=1) + ended.amax(dim=1)).tolist()
    return counts


def cut(text: str, until: Sequence[str]) -> str:
    r"""The text before the first of the stop texts, stripped.

    >>> cut(" yes\n\nQ: ", ["\n\n"])
    'yes'
    """
    for end in until:
        text = text.split(end)[0]
    return text.strip()

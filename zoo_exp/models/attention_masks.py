"""Attention masks of a language model's call: parse, cut to the kept tokens, and rebuild.

A mask [B, 1, L, S] prepared by a model is decomposed into a causal part (with a window or a chunk, depending on the
layer type) and blocks of tokens with bidirectional attention (the images of Gemma 3, the prefix of PaliGemma). Both are
cut to the kept tokens; windows and chunks count only kept tokens, as in a prompt without the dropped ones. Masks that
cannot be rebuilt exactly are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

_BARRED = -1e4
"""Additive masks are 0 for visible keys; smaller values than this mean masked keys."""


@dataclass(frozen=True)
class Part:
    """One prepared mask of a prompt: bidirectional attention within blocks, causal attention otherwise.

    Attributes:
        blocks: number of each token's block [B, n]; -1 for tokens without a block.
        window: sliding window of tokens outside of blocks, including the token itself, or None.
        chunk: length of attention chunks, or None.
    """

    blocks: Tensor
    window: int | None = None
    chunk: int | None = None

    def pick(self, order: Tensor) -> "Part":
        """The same for the columns `order` [B, n'] of the prompt."""
        return Part(self.blocks.gather(1, order), self.window, self.chunk)

    def allowed(self, real: Tensor) -> Tensor:
        """Visible keys of each query of the prompt [B, n, n] (bool), for real tokens [B, n] (bool)."""
        n = real.shape[1]
        q = torch.arange(n, device=real.device)[:, None]
        k = torch.arange(n, device=real.device)[None]
        back = (k <= q).expand(len(real), n, n)
        if self.window is not None:
            back = back & (q - k < self.window)
        if self.chunk is not None:
            start = (~real).long().sum(dim=1)[:, None, None]
            back = back & ((q - start) // self.chunk == (k - start) // self.chunk)
        blocks = self.blocks.to(real.device)
        together = (blocks[:, :, None] == blocks[:, None]) & (blocks >= 0)[:, None]
        return (back | together) & real[:, None]


def windows_of(config: Any) -> dict[str, tuple[int | None, int | None]]:
    """Window and chunk of each layer type of a decoder, by the name of its mask."""
    sliding = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    return {"sliding_attention": (sliding, None), "chunked_attention": (None, chunk)}


def seen_keys(mask: Any) -> Tensor | None:
    """Visible keys of each query [B, L, S] (bool), or None for a mask [B, S].

    Raises:
        InvalidValueError: a mask of another form.
    """
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1:
        raise _unknown(tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__)
    one = mask[:, 0]
    if one.dtype == torch.bool:
        return one
    seen = one == 0
    if not bool((seen | (one < _BARRED)).all()):
        raise _unknown("a bias that is added to the attention")
    return seen


def read_mask(mask: Any, real: Tensor, config: Any) -> dict[str, Part] | None:
    """Decompose the mask of a prompt with an empty cache.

    Args:
        mask: mask of the language model's call: None, [B, L], [B, 1, L, S], or a dict of these by layer type.
        real: real tokens [B, L] (bool).
        config: configuration of the language model.

    Returns:
        Parts by layer type ("" if there is one mask for all layers), or None if a mask [B, L] is sufficient (causal
        attention only).

    Raises:
        InvalidValueError: a mask of another form, or one that cannot be decomposed.
    """
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return None
    named = mask if isinstance(mask, Mapping) else {"": mask}
    known, parts = windows_of(config), {}
    for name, one in named.items():
        if one is None or (isinstance(one, Tensor) and one.ndim == 2):
            continue
        parts[name] = _part(str(name), one, real, known.get(str(name)), config)
    if all(bool((part.blocks < 0).all()) for part in parts.values()):
        return None
    if len(parts) < len(named):
        raise _unknown(f"{sorted(set(named) - set(parts))} and masks in two directions at once")
    return parts


def write_mask(parts: Mapping[str, Part], real: Tensor, given: Any) -> Any:
    """Build masks for the kept tokens, in the format of the original ones.

    Args:
        parts: parts of the kept tokens, by layer type.
        real: real tokens among them [B, n] (bool).
        given: the original mask; its dtype, and the size of a static cache, are kept.
    """
    if isinstance(given, Mapping):
        return {name: write_part(parts[str(name)], real, one) for name, one in given.items()}
    return write_part(parts[""], real, given)


def _part(
    name: str, mask: Any, real: Tensor, window: tuple[int | None, int | None] | None, config: Any
) -> Part:
    keys = seen_keys(mask)
    length = real.shape[1]
    if keys is None or keys.shape[1] != length or keys.shape[2] < length:
        raise _unknown(f"{name or 'the mask'} {tuple(mask.shape)} for a prompt of {length} tokens")
    seen = keys[..., :length].expand(len(real), -1, -1).to(real.device)
    both = seen & seen.transpose(1, 2) & ~torch.eye(length, dtype=torch.bool, device=real.device)
    first = torch.where(both.any(dim=-1), both.to(torch.uint8).argmax(dim=-1), -1)
    column = torch.arange(length, device=real.device)
    blocks = torch.where(first < 0, first, torch.minimum(first, column))
    blocks = torch.where(real, blocks, -1)
    kinds = [window] if window is not None else [(None, None), *windows_of(config).values()]
    for candidate in kinds:
        part = Part(blocks, *candidate)
        if torch.equal(part.allowed(real)[real], (seen & real[:, None])[real]):
            return part
    raise _unknown(f"{name or 'the mask'}: neither causal nor blocks that see each other")


def write_part(part: Part, real: Tensor, given: Tensor) -> Tensor:
    """One mask for the tokens that are left, in the form of the given one."""
    seen = part.allowed(real)[:, None].to(given.device)
    room = given.shape[3] - given.shape[2]
    if room:
        seen = torch.nn.functional.pad(seen, (0, room + given.shape[2] - seen.shape[3]))
    if given.dtype == torch.bool:
        return seen
    return torch.zeros_like(seen, dtype=given.dtype).masked_fill(~seen, torch.finfo(given.dtype).min)


def _unknown(what: object) -> InvalidValueError:
    return InvalidValueError(
        f"this model hands its language model an attention mask that cannot be cut to the kept tokens ({what}): run "
        "it without pruning, or with the attention backend sdpa or eager"
    )

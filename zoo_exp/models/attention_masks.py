"""Attention masks of a language model's call: read, cut to the kept tokens, and written again.

A mask [B, 1, L, S] that a model prepares itself is taken apart into what is causal (with a window or a chunk, where the
layer type has one) and blocks of tokens that see each other in both directions (the images of Gemma 3, the prefix of
PaliGemma). The parts follow the tokens that stay, and windows and chunks count the tokens that are left, as they would
in a prompt that never held the others. What cannot be put together again exactly is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

_BARRED = -1e4
"""An additive mask holds 0 where a key is seen; anything below this is a key that is not."""


@dataclass(frozen=True)
class Part:
    """One prepared mask of a prompt: tokens in the same block see each other, all others look back only.

    Attributes:
        blocks: number of each token's block [B, n]; -1 for tokens without one.
        window: how far back a token outside of a block sees, itself included, or None.
        chunk: length of the chunks that tokens do not see beyond, or None.
    """

    blocks: Tensor
    window: int | None = None
    chunk: int | None = None

    def pick(self, order: Tensor) -> "Part":
        """The same for the columns `order` [B, n'] of the prompt."""
        return Part(self.blocks.gather(1, order), self.window, self.chunk)

    def allowed(self, real: Tensor) -> Tensor:
        """Which keys each query of the prompt sees [B, n, n] (bool), for real tokens [B, n] (bool)."""
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
    """Window and chunk that each kind of layer of a decoder may have, by the name that the mask goes by."""
    sliding = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    return {"sliding_attention": (sliding, None), "chunked_attention": (None, chunk)}


def seen_keys(mask: Any) -> Tensor | None:
    """Which keys each query sees [B, L, S] (bool), or None for a mask [B, S].

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
    """The parts of the mask of a prompt that is read into an empty cache.

    Args:
        mask: what the language model was given: None, [B, L], [B, 1, L, S], or a dict of these by layer type.
        real: real tokens [B, L] (bool).
        config: of the language model.

    Returns:
        Parts by layer type ("" where there is one mask for all layers); None where a mask [B, L] says it all, as
        nothing looks forward.

    Raises:
        InvalidValueError: a mask of another form, or one that does not come apart.
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
    """Masks for the tokens that are left, in the form of the given ones.

    Args:
        parts: of the tokens that are left, by layer type.
        real: which of them are no padding [B, n] (bool).
        given: the mask before; its dtype, and the room of a static cache, are kept.
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

"""`Segment`: the sequence that a group of decoder layers reads, and operations that shorten it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.sending import sent
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.attention_masks import Part, seen_keys
from zoo_exp.models.base import count_positions
from zoo_exp.models.prompt import left_pack


@dataclass(frozen=True)
class Segment:
    """The prompt as read by decoder layers from `first` on; rows are left-padded.

    Attributes:
        first: number of the first decoder layer, from 0.
        mask: real tokens [B, n] (bool).
        visual: visual tokens, merged ones included [B, n] (bool).
        positions: position ids [B, n], or [A, B, n] where the family has A axes.
        source: column of each token in the sequence that entered the first decoder layer [B, n]; -1 for padding
            and merged tokens.
        padded: whether any row is padded.
        parts: decomposed masks by layer type, for models with bidirectional attention within images; None if all
            layers are causal.
        start: position of the first token, from which `contiguous` counts (1 for PaliGemma).
        following: position of the first token after the prompt [B] or [A, B]; None for the last position plus 1.
    """

    first: int
    mask: Tensor
    visual: Tensor
    positions: Tensor
    source: Tensor
    padded: bool
    parts: Mapping[str, Part] | None = None
    start: int = 0
    following: Tensor | None = None

    @property
    def length(self) -> int:
        """N."""
        return self.mask.shape[1]

    def to(self, device: torch.device) -> "Segment":
        """Copy on another device, for models with layers on several devices."""
        if self.mask.device == device:
            return self
        moved = {n: getattr(self, n).to(device) for n in ("mask", "visual", "positions", "source")}
        return replace(self, following=self.next_position.to(device), **moved)

    @property
    def next_position(self) -> Tensor:
        """Position of the first token after the prompt [B] or [A, B]."""
        return self.positions[..., -1] + 1 if self.following is None else self.following

    def after(self, step: Tensor) -> Tensor:
        """Positions of tokens `step` [q] positions after the prompt: [B, q] or [A, B, q]."""
        return self.next_position[..., None] + step

    def decode_mask(self, generated: int, new: Tensor) -> Tensor:
        """Mask over the prompt, generated tokens, and new tokens [B, q]: [B, n + generated + q]."""
        prompt = self.mask.long()
        if generated < 0:  # assisted generation took candidates off the cache again
            return torch.cat([prompt[:, :generated], new], dim=1)
        return torch.cat([prompt, new.new_ones(len(new), generated), new], dim=1)

    def continued(self, given: Any, embeds: Tensor, generated: int) -> dict[str, Any]:
        """Mask and positions of the language model's call for new tokens after the prompt.

        Args:
            given: the mask of the call.
            embeds: embeddings of the new tokens [B, q, D].
            generated: number of tokens between the prompt and the new ones.
        """
        new = embeds.shape[1]
        mask = given if isinstance(given, Tensor) and given.ndim == 2 else None
        real = self.source.new_ones(len(embeds), new) if mask is None else mask[:, -new:].long()
        step = torch.arange(new, device=embeds.device) + generated
        changed: dict[str, Any] = {"position_ids": self.after(step)}
        if self.padded or mask is not None or _queries(given) not in (None, new):
            changed["attention_mask"] = self.decode_mask(generated, real)
        return changed

    def repeat(self, copies: int) -> "Segment":
        """Repeat every row `copies` times consecutively, as in beam search."""
        if copies == 1:
            return self
        rows = {n: getattr(self, n).repeat_interleave(copies, dim=0) for n in ("mask", "visual", "source")}
        positions = self.positions.repeat_interleave(copies, dim=self.positions.ndim - 2)
        parts = self.parts
        if parts is not None:
            parts = {
                n: replace(p, blocks=p.blocks.repeat_interleave(copies, dim=0)) for n, p in parts.items()
            }
        following = self.next_position
        following = following.repeat_interleave(copies, dim=following.ndim - 1)
        return replace(self, positions=positions, parts=parts, following=following, **rows)

    def shorten(self, keep: Tensor, first: int, positions: str) -> tuple[Tensor, "Segment"]:
        """The segment with only the tokens in `keep` [B, n].

        Rows without dropped tokens keep their positions under both policies.

        Returns:
            The columns [B, n'] to gather, and the segment.
        """
        order, mask = left_pack(keep)
        columns = order.expand(*self.positions.shape[:-2], *order.shape)
        kept = self.positions.gather(-1, columns).masked_fill(~mask, 0)
        following = self.next_position
        if positions == "contiguous":
            intact = (keep == self.mask).all(dim=1, keepdim=True)
            counted = (count_positions(mask) + self.start).masked_fill(~mask, 0)
            kept = torch.where(intact, kept, counted)
            following = torch.where(intact[:, 0], following, mask.sum(dim=1) + self.start)
        return order, Segment(
            first=first,
            mask=mask,
            visual=self.visual.gather(1, order) & mask,
            positions=kept,
            source=self.source.gather(1, order).masked_fill(~mask, -1),
            padded=bool((~mask).any()),
            parts=None if self.parts is None else {n: p.pick(order) for n, p in self.parts.items()},
            start=self.start,
            following=following,
        )

    def insert(self, hidden: Tensor, extra: list[Tensor], positions: str) -> tuple[Tensor, "Segment"]:
        """Insert merged tokens [m, D] of each row after its last visual token.

        With `original` positions, a merged token gets the position of the visual token before it.

        Returns:
            Hidden states [B, n', D], and the segment.

        Raises:
            InvalidValueError: the model has bidirectional attention within images, undefined for merged tokens.
        """
        if self.parts is not None:
            raise InvalidValueError(
                "a selector that merges tokens between layers does not go with a model whose image tokens see each "
                "other in both directions: take fastv or dart, or a selector before the language model"
            )
        axes = self.positions if self.positions.ndim == 3 else self.positions[None]
        rows: list[tuple[Tensor, ...]] = []
        for b, merged in enumerate(extra):
            real = self.mask[b].nonzero().squeeze(1)
            at = self.visual[b, real].nonzero()
            cut = int(at[-1]) + 1 if len(at) else 0
            m = len(merged)
            head, tail = real[:cut], real[cut:]
            last = axes[:, b, real[max(0, cut - 1) :][:1]].expand(-1, m)
            rows.append(
                (
                    torch.cat([hidden[b, head], merged.to(hidden), hidden[b, tail]]),
                    torch.cat([self.visual[b, head], self.visual.new_ones(m), self.visual[b, tail]]),
                    torch.cat([axes[:, b, head], last, axes[:, b, tail]], dim=1).T,
                    torch.cat([self.source[b, head], self.source.new_full((m,), -1), self.source[b, tail]]),
                )
            )
        lengths = [len(row[1]) for row in rows]
        longest = max(lengths)
        states, visual, places, source = (
            torch.stack([_pad_left(row[i], longest, fill) for row in rows])
            for i, fill in ((0, 0), (1, False), (2, 0), (3, -1))
        )
        column = torch.arange(longest, device=hidden.device)
        mask = column >= (longest - sent(lengths, hidden.device))[:, None]
        kept = places.permute(2, 0, 1)
        following: Tensor | None = self.next_position
        if positions == "contiguous":
            kept = (count_positions(mask) + self.start).masked_fill(~mask, 0).expand_as(kept)
            following = None
        kept = kept if self.positions.ndim == 3 else kept[0]
        padded = min(lengths) < longest
        return states, Segment(self.first, mask, visual, kept, source, padded, following=following)


def whole_prompt(
    real: Tensor,
    visual: Tensor,
    positions: Tensor,
    parts: Mapping[str, Part] | None = None,
    start: int = 0,
    following: Tensor | None = None,
) -> Segment:
    """The segment before tokens are dropped."""
    column = torch.arange(real.shape[1], device=real.device)
    source = torch.where(real, column, -1)
    return Segment(0, real, visual & real, positions, source, bool((~real).any()), parts, start, following)


def after_largest(real: Tensor, positions: Tensor) -> Tensor | None:
    """Position of the first token after whole prompts [A, B], for a model that counts on from the largest one.

    With a time axis, a long video reaches positions above those of the text behind it. `generate` counts on from the
    last token, but a model that is called without positions from the largest one of its three axes (`rope_deltas` in
    Qwen's `get_rope_index`).
    """
    if positions.ndim < 3 or len(positions) < 3:
        return None
    largest = positions[-3:].masked_fill(~real, -1).amax(dim=(0, 2)) + 1
    return torch.cat([positions[:-3, :, -1] + 1, largest.expand(3, -1)])


def first_position(real: Tensor, positions: Tensor) -> int:
    """Position of the first token if it is the same in all rows, otherwise 0.

    Args:
        real: real tokens [B, n] (bool).
        positions: [B, n] or [A, B, n].
    """
    column = real.to(torch.uint8).argmax(dim=1, keepdim=True)
    first = positions.gather(-1, column.expand(*positions.shape[:-1], 1))
    return int(first.flatten()[0]) if bool((first == first.flatten()[0]).all()) else 0


def visual_left(whole: Segment, last: Segment) -> list[list[int]]:
    """Visual tokens of the whole prompt that a later segment contains, by row, ascending; excludes merged tokens."""
    number = (whole.visual.long().cumsum(dim=1) - 1).to(last.source.device)
    return [
        number[b, columns[visual & (columns >= 0)]].tolist()
        for b, (columns, visual) in enumerate(zip(last.source, last.visual, strict=True))
    ]


def real_tokens(
    mask: Tensor | Mapping[str, Any] | None, batch: int, new: int, past: int, device: Any
) -> Tensor:
    """Real tokens among the `new` tokens [B, new] (bool), from any form of mask.

    `transformers` passes None or [B, S], and for static caches and models with bidirectional attention a 4-D mask or a
    dict of them, in which a column is real if some query can attend to it.
    """
    if isinstance(mask, Mapping):
        several = [real_tokens(one, batch, new, past, device) for one in mask.values()]
        return torch.stack(several).any(dim=0) if mask else real_tokens(None, batch, new, past, device)
    if mask is None:
        return torch.ones(batch, new, dtype=torch.bool, device=device)
    seen = seen_keys(mask)
    if seen is not None:
        return seen.any(dim=1)[:, past : past + new].expand(batch, -1)
    return mask[:, -new:].bool()


def _queries(mask: Any) -> int | None:
    """Query rows of a prepared mask [B, 1, q, S], or of the first of several."""
    if isinstance(mask, Mapping):
        return next((rows for rows in map(_queries, mask.values()) if rows is not None), None)
    return mask.shape[2] if isinstance(mask, Tensor) and mask.ndim == 4 else None


def _pad_left(row: Tensor, length: int, fill: float) -> Tensor:
    out = row.new_full((length, *row.shape[1:]), fill)
    out[length - len(row) :] = row
    return out

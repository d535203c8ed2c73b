"""`Segment`: what a run of decoder layers sees of the prompt, and how a shorter one is made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.attention_masks import Part, seen_keys
from zoo_exp.models.base import count_positions
from zoo_exp.models.prompt import left_pack


@dataclass(frozen=True)
class Segment:
    """The prompt as decoder layers from `first` on see it; rows are left-padded.

    Attributes:
        first: number of the first decoder layer, from 0.
        mask: real tokens [B, n] (bool).
        visual: visual tokens, merged ones included [B, n] (bool).
        positions: position ids [B, n], or [A, B, n] where the family has A axes.
        source: column of each token in the sequence that entered the first decoder layer [B, n]; -1 for padding
            and merged tokens.
        padded: whether any row is padded.
        parts: by layer type, what the masks of a model are made of that sees forward within an image; None where
            all layers look back only.
        start: position of a prompt's first token, from which `contiguous` counts (PaliGemma begins at 1).
    """

    first: int
    mask: Tensor
    visual: Tensor
    positions: Tensor
    source: Tensor
    padded: bool
    parts: Mapping[str, Part] | None = None
    start: int = 0

    @property
    def length(self) -> int:
        """N."""
        return self.mask.shape[1]

    def to(self, device: torch.device) -> "Segment":
        """The same on another device, where the layers of a model are spread over several."""
        if self.mask.device == device:
            return self
        moved = {n: getattr(self, n).to(device) for n in ("mask", "visual", "positions", "source")}
        return replace(self, **moved)

    def after(self, step: Tensor) -> Tensor:
        """Positions of the tokens that come `step` [q] places behind the prompt: [B, q] or [A, B, q]."""
        return self.positions[..., -1:] + 1 + step

    def decode_mask(self, generated: int, new: Tensor) -> Tensor:
        """Mask over the prompt, what was generated since, and new tokens [B, q]: [B, n + generated + q]."""
        prompt = self.mask.long()
        if generated < 0:  # assisted generation took candidates off the cache again
            return torch.cat([prompt[:, :generated], new], dim=1)
        return torch.cat([prompt, new.new_ones(len(new), generated), new], dim=1)

    def continued(self, given: Any, embeds: Tensor, generated: int) -> dict[str, Any]:
        """Mask and positions of the language model's call for new tokens behind the prompt.

        Args:
            given: the mask of the call.
            embeds: of the new tokens [B, q, D].
            generated: tokens between the prompt and these.
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
        """The same with every row `copies` times in a row, as beam search has it."""
        if copies == 1:
            return self
        rows = {n: getattr(self, n).repeat_interleave(copies, dim=0) for n in ("mask", "visual", "source")}
        positions = self.positions.repeat_interleave(copies, dim=self.positions.ndim - 2)
        parts = self.parts
        if parts is not None:
            parts = {
                n: replace(p, blocks=p.blocks.repeat_interleave(copies, dim=0)) for n, p in parts.items()
            }
        return replace(self, positions=positions, parts=parts, **rows)

    def shorten(self, keep: Tensor, first: int, positions: str) -> tuple[Tensor, "Segment"]:
        """The segment that is left when only the tokens in `keep` [B, n] stay.

        A row that loses nothing keeps its positions under either policy.

        Returns:
            The columns [B, n'] to gather, and the segment.
        """
        order, mask = left_pack(keep)
        columns = order.expand(*self.positions.shape[:-2], *order.shape)
        kept = self.positions.gather(-1, columns).masked_fill(~mask, 0)
        if positions == "contiguous":
            intact = (keep == self.mask).all(dim=1, keepdim=True)
            counted = (count_positions(mask) + self.start).masked_fill(~mask, 0)
            kept = torch.where(intact, kept, counted)
        return order, Segment(
            first=first,
            mask=mask,
            visual=self.visual.gather(1, order) & mask,
            positions=kept,
            source=self.source.gather(1, order).masked_fill(~mask, -1),
            padded=bool((~mask).any()),
            parts=None if self.parts is None else {n: p.pick(order) for n, p in self.parts.items()},
            start=self.start,
        )

    def insert(self, hidden: Tensor, extra: list[Tensor], positions: str) -> tuple[Tensor, "Segment"]:
        """Put merged tokens [m, D] of each row behind its last visual token.

        Under `original` positions a merged token takes the position of the visual token before it.

        Returns:
            Hidden states [B, n', D], and the segment.

        Raises:
            InvalidValueError: the model sees forward within an image, so that nothing says what merged tokens see.
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
            last = axes[:, b, real[max(0, cut - 1)], None].expand(-1, m)
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
        mask = column >= (longest - torch.tensor(lengths, device=hidden.device))[:, None]
        kept = places.permute(2, 0, 1)
        if positions == "contiguous":
            kept = (count_positions(mask) + self.start).masked_fill(~mask, 0).expand_as(kept)
        kept = kept if self.positions.ndim == 3 else kept[0]
        return states, Segment(self.first, mask, visual, kept, source, min(lengths) < longest)


def whole_prompt(
    real: Tensor, visual: Tensor, positions: Tensor, parts: Mapping[str, Part] | None = None, start: int = 0
) -> Segment:
    """The segment before anything was dropped."""
    column = torch.arange(real.shape[1], device=real.device)
    source = torch.where(real, column, -1)
    return Segment(0, real, visual & real, positions, source, bool((~real).any()), parts, start)


def first_position(real: Tensor, positions: Tensor) -> int:
    """Position of a row's first token, where all rows begin at the same one; else 0.

    Args:
        real: real tokens [B, n] (bool).
        positions: [B, n] or [A, B, n].
    """
    column = real.to(torch.uint8).argmax(dim=1, keepdim=True)
    first = positions.gather(-1, column.expand(*positions.shape[:-1], 1))
    return int(first.flatten()[0]) if bool((first == first.flatten()[0]).all()) else 0


def visual_left(whole: Segment, last: Segment) -> list[list[int]]:
    """Which visual tokens of the whole prompt a later segment still has, by row, ascending; no merged ones."""
    number = (whole.visual.long().cumsum(dim=1) - 1).to(last.source.device)
    return [
        number[b, columns[visual & (columns >= 0)]].tolist()
        for b, (columns, visual) in enumerate(zip(last.source, last.visual, strict=True))
    ]


def real_tokens(
    mask: Tensor | Mapping[str, Any] | None, batch: int, new: int, past: int, device: Any
) -> Tensor:
    """Which of the `new` tokens are real [B, new] (bool), from any form of mask that a model is handed.

    `transformers` gives None, [B, S], and for static caches and for models that see forward a 4-D mask or a dict of
    them: there, a column that some query sees is real.
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

"""Pruned prompts as tensors, for `generate` without hooks; one vision pass is shared by all arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import POSITIONS, VLMAdapter
from zoo_exp.models.processors import pad_id


@dataclass(frozen=True)
class PrunedPrompt:
    """Inputs of the language model.

    Attributes:
        inputs_embeds: left-padded embeddings [B, L, D].
        attention_mask: 1 for real tokens [B, L].
        position_ids: [B, L] or [3, B, L], or None if `generate` derives them from the mask.
        visual: visual tokens, including merged ones [B, L] (bool).
        kept_tokens: number of visual tokens in each row, counted after pruning.
        input_ids: ids of the pruned prompts [B, L], for logits processors that read the prompt.
        feed: further inputs of the decoder, for families that need them.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None
    visual: Tensor
    kept_tokens: list[int]
    feed: Any = field(default=None, compare=False)
    input_ids: Tensor | None = None


@torch.no_grad()
def prune_prompt(
    adapter: VLMAdapter,
    inputs: Mapping[str, Any],
    tokens: Sequence[Sequence[VisualTokens]],
    selections: Sequence[Sequence[Selection]],
    positions: str | None = None,
) -> PrunedPrompt:
    """Create prompts that contain only the selected visual tokens.

    Args:
        adapter: adapter of the model.
        inputs: the processor's output: `input_ids` [B, L] and `attention_mask`.
        tokens: visual tokens by row and image, from `adapter.encode`.
        selections: selections in the same layout.
        positions: `contiguous` renumbers the remaining tokens, `original` keeps every token's position; None for the
            family's default.

    Raises:
        InvalidValueError: invalid `positions`, or placeholders do not match the images.
    """
    own = adapter.prune(inputs, tokens, selections, positions)
    if own is not None:
        prompt: PrunedPrompt = own
        return prompt
    positions = check_positions(positions, adapter)
    ids = inputs["input_ids"]
    keep, real, visual, features = keep_mask(adapter, inputs, tokens, selections)
    images = [t for row in tokens for t in row]
    embed = adapter.model.get_input_embeddings()
    order, new_mask = left_pack(keep)
    new_ids = ids.gather(1, order)
    stays_visual = visual.gather(1, order) & new_mask
    embeds: Tensor = embed(new_ids)
    if features is not None:
        embeds = embeds.masked_scatter(stays_visual[..., None], features.to(embeds))
    position_ids = adapter.new_positions(new_mask)
    if positions == "original" or position_ids is not None:
        old = adapter.position_ids(ids, real, images)
        kept = old.gather(-1, order.expand(*old.shape[:-2], *order.shape)).masked_fill(~new_mask, 0)
        if positions == "original" or position_ids is None:
            position_ids = kept
        else:  # rows without dropped tokens keep their positions under both policies
            position_ids = torch.where((keep == real).all(dim=1, keepdim=True), kept, position_ids)
    # A padding column of a shorter prompt may contain a dropped token, which processors must not see.
    as_given = new_mask | (keep == real).all()
    return PrunedPrompt(
        embeds,
        new_mask.long(),
        position_ids,
        stays_visual,
        stays_visual.sum(dim=1).tolist(),
        input_ids=torch.where(as_given, new_ids, pad_id(adapter.model)),
    )


def keep_mask(
    adapter: VLMAdapter,
    inputs: Mapping[str, Any],
    tokens: Sequence[Sequence[VisualTokens]],
    selections: Sequence[Sequence[Selection]],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Which tokens of some prompts stay, by their selections.

    Args:
        adapter: adapter of the model.
        inputs: as in `prune_prompt`, like the arguments that follow.
        tokens: visual tokens by row and image.
        selections: selections in the same layout.

    Returns:
        Kept tokens, real tokens and visual tokens [B, L] (bool), and features of the kept visual tokens [K, D] (None if
        there are no images).

    Raises:
        InvalidValueError: placeholders do not match the images.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    visual = real & (ids == adapter.image_token_id)
    images = [t for row in tokens for t in row]
    chosen = [s for row in selections for s in row]
    slots = visual.flatten().nonzero().squeeze(1)
    if len(images) != len(chosen) or len(slots) != sum(t.count for t in images):
        raise InvalidValueError(
            f"the prompts have {len(slots)} image placeholders; there are {len(images)} images with "
            f"{sum(t.count for t in images)} visual tokens and {len(chosen)} selections"
        )
    keep = real & ~visual
    if not chosen:
        return keep, real, visual, None
    starts, start = [], 0
    for t in images:
        starts.append(start)
        start += t.count
    index = torch.cat([s.indices + at for s, at in zip(chosen, starts, strict=True)])
    keep.view(-1)[slots[index.to(slots.device)]] = True
    return keep, real, visual, torch.cat([features_of(t, s) for t, s in zip(images, chosen, strict=True)])


def features_of(tokens: VisualTokens, selection: Selection) -> Tensor:
    """Features of one image that enter the language model [K, D]: its projected or merged features.

    Args:
        tokens: the image.
        selection: what is kept of it.
    """
    if selection.merged is not None:
        return selection.merged.to(tokens.projected.dtype)
    return tokens.projected[selection.indices]


def left_pack(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move the kept tokens of every row to its right end, in order.

    Args:
        keep: kept tokens [B, L] (bool).

    Returns:
        Columns to gather [B, L'], and the mask of kept tokens among them [B, L'].

    >>> order, mask = left_pack(torch.tensor([[True, False, True], [False, True, False]]))
    >>> order.tolist(), mask.tolist()
    ([[0, 2], [2, 1]], [[True, True], [False, True]])
    """
    lengths = keep.sum(dim=1)
    longest = int(lengths.max()) if len(lengths) else 0
    order = keep.to(torch.uint8).sort(dim=1, stable=True).indices[:, keep.shape[1] - longest :]
    column = torch.arange(longest, device=keep.device)
    return order, column >= (longest - lengths)[:, None]


def check_positions(positions: str | None, adapter: VLMAdapter) -> str:
    """Return the position policy.

    Args:
        positions: the policy; None for the family's default.
        adapter: of the family.

    Raises:
        InvalidValueError: neither `contiguous` nor `original`.
    """
    if positions is None:
        return adapter.positions
    if positions not in POSITIONS:
        raise InvalidValueError(f"positions '{positions}': allowed are {', '.join(POSITIONS)}")
    return positions


def generate_pruned(model: Any, prompt: PrunedPrompt, **generate_kwargs: Any) -> Tensor:
    """Generate responses to pruned prompts.

    Args:
        model: the model.
        prompt: from `prune_prompt`.
        **generate_kwargs: any options of `generate`.

    Returns:
        Only the new tokens [B, T], right-padded by `generate`.
    """
    if prompt.feed is not None:
        return prompt.feed.generate(model, **generate_kwargs)  # type: ignore[no-any-return]
    given: dict[str, Any] = {"inputs_embeds": prompt.inputs_embeds, "attention_mask": prompt.attention_mask}
    if prompt.input_ids is not None:
        given["input_ids"] = prompt.input_ids
    if prompt.position_ids is not None:
        given["position_ids"] = prompt.position_ids
    answer = model.generate(**given, **generate_kwargs)
    start = 0 if prompt.input_ids is None else prompt.input_ids.shape[1]
    if isinstance(answer, Tensor):
        return answer[:, start:]
    answer.sequences = answer.sequences[:, start:]
    return answer  # type: ignore[no-any-return]

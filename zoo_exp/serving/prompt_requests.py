"""Requests to vLLM from pruned prompts, as tensors; everything is checked here, before vLLM sees it.

vLLM trusts embeddings: NaN spoils the requests that run beside, a count that does not fit its grid ends the engine, and
a prompt without its beginning-of-sequence token gets another response. `Checks` refuses all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.prompt import PrunedPrompt

EXTRA = 8
"""Columns behind an embedding that carry positions: time, row, column and the span of the image, two digits each."""
BASE = 256
"""Base of the digits: bfloat16 holds every whole number up to 256 exactly."""


@dataclass(frozen=True)
class Row:
    """One prompt of a batch, without padding, on the CPU.

    Attributes:
        name: of the prompt, for messages.
        embeds: embeddings [L, D].
        ids: token ids [L], with the image token for every visual token; None if the family does not give them.
        visual: visual tokens [L] (bool).
        images: number of visual tokens of each image, in prompt order.
        positions: [L], or [3, L] for families with three axes; None for 0 to L - 1.
    """

    name: str
    embeds: Tensor
    ids: list[int] | None
    visual: Tensor
    images: tuple[int, ...]
    positions: Tensor | None

    @property
    def counted(self) -> bool:
        """Whether the positions are 0 to L - 1 on every axis, as vLLM counts those of text."""
        if self.positions is None:
            return True
        return bool((self.positions == torch.arange(len(self.embeds))).all())


def rows_of(prompt: PrunedPrompt, images: Sequence[Sequence[int]], names: Sequence[str]) -> list[Row]:
    """The prompts of a batch, one by one.

    Args:
        prompt: pruned prompts, padded on the left.
        images: by row, the kept visual tokens of each image.
        names: one name per row.

    Raises:
        InvalidValueError: the decoder of the family reads more than embeddings and positions.
    """
    if prompt.feed is not None:
        raise InvalidValueError(
            f"{names[0]}: the decoder of this model reads more than embeddings, which vLLM does not take: use engine=hf"
        )
    embeds, mask, visual = prompt.inputs_embeds.cpu(), prompt.attention_mask.bool().cpu(), prompt.visual.cpu()
    ids = None if prompt.input_ids is None else prompt.input_ids.cpu()
    positions = None if prompt.position_ids is None else prompt.position_ids.cpu()
    return [
        Row(
            name,
            embeds[row][real],
            None if ids is None else ids[row][real].tolist(),
            visual[row][real],
            tuple(images[row]),
            None if positions is None else positions[..., row, :][..., real],
        )
        for row, (name, real) in enumerate(zip(names, mask, strict=True))
    ]


@dataclass(frozen=True)
class Checks:
    """What a prompt must meet before it is sent.

    Attributes:
        width: D of the language model.
        longest: longest prompt with its response, in tokens.
        begin: the beginning-of-sequence token that the tokenizer writes; None if it writes none.
    """

    width: int
    longest: int
    begin: int | None = None

    def check(self, row: Row, new_tokens: int) -> None:
        """Refuse a prompt that vLLM would answer wrongly, or that would end it.

        Raises:
            InvalidValueError: the message names the prompt and the reason.
        """
        length = len(row.embeds)
        if length == 0:
            raise InvalidValueError(f"{row.name}: the prompt has no tokens")
        if row.embeds.ndim != 2 or row.embeds.shape[1] != self.width:
            shape = list(row.embeds.shape)
            raise InvalidValueError(
                f"{row.name}: embeddings {shape}; the language model takes [L, {self.width}]"
            )
        if not bool(torch.isfinite(row.embeds).all()):
            raise InvalidValueError(
                f"{row.name}: its embeddings are not finite, and would spoil other requests: the weights of the vision "
                "encoder are damaged, or its values are too large for the dtype"
            )
        if length + new_tokens > self.longest:
            raise InvalidValueError(
                f"{row.name}: {length} prompt tokens and {new_tokens} new ones; the engine takes {self.longest}: raise "
                "engine.max_model_len, or lower the budget"
            )
        if sum(row.images) != int(row.visual.sum()):
            raise InvalidValueError(
                f"{row.name}: {int(row.visual.sum())} placeholders for images with {sum(row.images)} visual tokens"
            )
        if self.begin is not None and row.ids is not None and row.ids[0] != self.begin:
            raise InvalidValueError(
                f"{row.name}: the prompt begins with token {row.ids[0]}, not with the beginning-of-sequence token "
                f"{self.begin}: a chat template that leaves it out changes the responses"
            )


def prompt_embeds(row: Row) -> dict[str, Any]:
    """A request with the whole prompt as embeddings [L, D].

    Raises:
        InvalidValueError: positions that are not 0 to L - 1.
    """
    if not row.counted:
        raise InvalidValueError(
            f"{row.name}: its positions are not 0 to {len(row.embeds) - 1}, which prompt_embeds cannot carry: type "
            "engine.via=image_embeds (without engine.url), or engine=hf"
        )
    return {"prompt_embeds": row.embeds.contiguous()}


def image_embeds(row: Row, image_token: int, merge: int | None = None) -> dict[str, Any]:
    """A request with token ids and one placeholder per image, which vLLM repeats K times.

    A prompt without kept tokens is a prompt of text.

    Args:
        row: the prompt.
        image_token: id of the placeholder.
        merge: merge size of the vision encoder for families whose images have a grid: their embeddings then carry
            positions [K, D + 8] for the plug-in's class. None for the others [K, D].

    Raises:
        InvalidValueError: no token ids, images whose tokens are not one run, or positions that cannot be carried.
    """
    if row.ids is None:
        raise InvalidValueError(f"{row.name}: the family gives no token ids, which image_embeds needs")
    if merge is None:
        if not row.counted:
            raise InvalidValueError(
                f"{row.name}: its positions are not 0 to {len(row.ids) - 1}, and vLLM counts them so: use engine=hf"
            )
        spans = _spans(row)
    else:
        spans = _spans(row) or ([] if row.counted else [_gap(row)])
    ids, at = [], 0
    for start, stop in spans:
        ids += [*row.ids[at:start], image_token]
        at = stop
    ids += row.ids[at:]
    if not spans:
        return {"prompt_token_ids": ids}
    if merge is None:
        return {
            "prompt_token_ids": ids,
            "multi_modal_data": {"image": [row.embeds[start:stop].contiguous() for start, stop in spans]},
        }
    parts = [torch.cat([row.embeds[a:b], _carried(row, a, b)], dim=1) for a, b in spans]
    grids = torch.tensor([[1, merge, merge * len(part)] for part in parts])
    check_grids(parts, grids, merge, row.name)
    return {
        "prompt_token_ids": ids,
        "multi_modal_data": {"image": {"image_embeds": torch.cat(parts), "image_grid_thw": grids}},
    }


def check_grids(parts: Sequence[Tensor], grids: Tensor, merge: int, name: str) -> None:
    """Refuse counts of visual tokens [K, D] that do not fit their grids [n, 3] of patches; they end an engine.

    Raises:
        InvalidValueError: the message gives both numbers.
    """
    fits = [int(count) // merge**2 for count in grids.prod(dim=1)]
    if fits != [len(part) for part in parts]:
        raise InvalidValueError(
            f"{name}: grids of {fits} visual tokens for embeddings of {[len(part) for part in parts]}"
        )


def _spans(row: Row) -> list[tuple[int, int]]:
    """First and last place (exclusive) of each image with visual tokens."""
    places = row.visual.nonzero().flatten().tolist()
    spans, at = [], 0
    for count in row.images:
        mine = places[at : at + count]
        at += count
        if not mine:
            continue
        if mine[-1] - mine[0] + 1 != count:
            raise InvalidValueError(
                f"{row.name}: text lies between the visual tokens of an image, which image_embeds cannot carry: use "
                "engine=hf"
            )
        spans.append((mine[0], mine[-1] + 1))
    return spans


def _gap(row: Row) -> tuple[int, int]:
    """The token of text behind the place where all visual tokens were dropped under `original` positions.

    Positions jump there. The token is sent as an embedding, which has positions, in the place of an image.
    """
    assert row.positions is not None
    steps = row.positions.view(-1, len(row.embeds)).diff(dim=1).ne(1).any(dim=0).nonzero().flatten().tolist()
    if len(steps) != 1:
        raise InvalidValueError(
            f"{row.name}: {len(steps)} images without visual tokens under positions=original: use engine=hf"
        )
    return steps[0] + 1, steps[0] + 2


def _carried(row: Row, start: int, stop: int) -> Tensor:
    """Positions of the tokens from `start` to `stop` relative to the text before them, and the span, as digits [K, 8].

    The span is how far the tokens move the text behind them.

    Raises:
        InvalidValueError: positions that go backwards or do not fit two digits, or an image at the end.
    """
    positions = torch.arange(len(row.embeds)) if row.positions is None else row.positions
    positions = positions.expand(3, -1)
    if stop >= len(row.embeds):
        raise InvalidValueError(
            f"{row.name}: the prompt ends with an image, whose positions cannot be carried"
        )
    begin = int(positions[:, start - 1].max()) + 1 if start else 0
    relative = positions[:, start:stop].T - begin
    span = (positions[:, stop].min() - begin).expand(stop - start, 1)
    numbers = torch.cat([relative, span], dim=1)
    if bool((numbers < 0).any() | (numbers >= BASE**2).any()):
        raise InvalidValueError(
            f"{row.name}: positions from {int(numbers.min())} to {int(numbers.max())} relative to the text before an "
            f"image; 0 to {BASE**2 - 1} can be carried: use engine=hf"
        )
    return torch.cat([numbers // BASE, numbers % BASE], dim=1).to(row.embeds.dtype)

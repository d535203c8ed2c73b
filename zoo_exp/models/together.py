"""Several arms of a batch in one call of `generate`: rows of arms whose pruned prompts have equal length.

Every row is what it is when its arm is answered alone: its embeddings, padding, mask and positions. Only the number of
rows of the call differs, which can change the last bits of logits, as the batch size can.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.checks import deferred_checks
from zoo_exp.models.answering import Generated, Prepared, Ratings, kept_by_image, prepare
from zoo_exp.models.encoded_batch import EncodedBatch
from zoo_exp.models.generators import HfGenerator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.models.responses import count_new
from zoo_exp.selectors.base import Selector

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One arm's part of a batch; the fields are arguments of `answering.generate`.

    Attributes:
        batch: the prompts that the arm answers.
        selector: an input selector.
        budget: visual tokens to keep per image.
        names: one name per row.
        positions: `contiguous` or `original`; None for the default of the model family.
    """

    batch: EncodedBatch
    selector: Selector
    budget: Budget | None
    names: Sequence[str]
    positions: str | None = None


def generate_together(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    *,
    seed: int = 0,
    ratings: Ratings | None = None,
    most_tokens: int,
    **options: Any,
) -> list[Generated]:
    """Select and prune for several arms, and generate for all whose prompts have equal length in one call.

    Args:
        loaded: the model.
        asked: the arms.
        seed: seed of stochastic selectors.
        ratings: scores shared with other arms.
        most_tokens: bound of the tokens of a call with several arms: rows times prompt and response.
        **options: arguments of `model.generate`, with `max_new_tokens`.

    Returns:
        One result per arm. Its times have the arm's share of a call's duration, by rows.

    Raises:
        InvalidValueError: as `answering.generate`.
    """
    ratings = ratings or Ratings()
    found: dict[int, Generated] = {}
    with deferred_checks():
        ready = [
            prepare(
                loaded,
                arm.batch,
                arm.selector,
                arm.budget,
                arm.names,
                seed=seed,
                positions=arm.positions,
                ratings=ratings,
            )
            for arm in asked
        ]
        pruned_at = [*(arm.started for arm in ready[1:]), time.perf_counter()]
        for places in _calls([arm.prompt for arm in ready], most_tokens, options["max_new_tokens"]):
            members = [ready[place] for place in places]
            sizes = [len(arm.prompt.kept_tokens) for arm in members]
            started = time.perf_counter()
            ids = HfGenerator(loaded.model).generate(
                join([arm.prompt for arm in members]),
                [row for arm in members for row in kept_by_image(arm.selected)],
                [name for place in places for name in asked[place].names],
                **options,
            )
            ratings.synchronise()
            per_row = (time.perf_counter() - started) / sum(sizes)
            for place, arm, rows in zip(places, members, ids.split(sizes), strict=True):
                alone = pruned_at[place] - arm.started
                result = _result(loaded, arm, rows, alone, per_row * len(rows))
                found[place] = replace(result, arms_in_call=len(members))
    return [found[place] for place in range(len(asked))]


def _result(loaded: LoadedModel, arm: Prepared, ids: Tensor, alone: float, shared: float) -> Generated:
    """The result of one arm.

    Args:
        loaded: the model.
        arm: its prompts.
        ids: new tokens of its rows [B, T], with the padding of the longest response of the call.
        alone: seconds of selection and pruning.
        shared: its share of the call, in seconds.
    """
    spent = alone + shared
    return Generated(
        arm.selected,
        arm.prompt,
        ids[:, : max(count_new(loaded.model, ids))],
        None,
        (spent - (arm.chosen - arm.started)) * 1e3,
        spent * 1e3,
    )


def _calls(prompts: Sequence[PrunedPrompt], most_tokens: int, new_tokens: int) -> list[list[int]]:
    """Places of the prompts that go into one call, in order of the first of each call."""
    calls: dict[Hashable, list[list[int]]] = {}
    for place, prompt in enumerate(prompts):
        rows, length = prompt.attention_mask.shape
        # A decoder of a family without an adapter of its own reads more than these tensors: it is answered alone.
        alone = None if prompt.feed is None else place
        kind = (length, prompt.position_ids is None, prompt.input_ids is None, alone)
        same = calls.setdefault(kind, [])
        waiting = sum(len(prompts[other].kept_tokens) for other in same[-1]) if same else 0
        if same and (waiting + rows) * (length + new_tokens) <= most_tokens:
            same[-1].append(place)
        else:
            same.append([place])
    return sorted((call for same in calls.values() for call in same), key=lambda call: call[0])


def join(prompts: Sequence[PrunedPrompt]) -> PrunedPrompt:
    """One batch of the rows of several, whose prompts have equal padded length.

    Args:
        prompts: all with positions and ids, or all without.
    """
    first = prompts[0]
    if len(prompts) == 1:
        return first

    def cat(get: Callable[[PrunedPrompt], Tensor | None], dim: int = 0) -> Tensor | None:
        parts = [part for prompt in prompts if (part := get(prompt)) is not None]
        return torch.cat(parts, dim) if parts else None

    axis = 0 if first.position_ids is None else first.position_ids.ndim - 2
    return PrunedPrompt(
        torch.cat([prompt.inputs_embeds for prompt in prompts]),
        torch.cat([prompt.attention_mask for prompt in prompts]),
        cat(lambda prompt: prompt.position_ids, axis),
        torch.cat([prompt.visual for prompt in prompts]),
        [kept for prompt in prompts for kept in prompt.kept_tokens],
        input_ids=cat(lambda prompt: prompt.input_ids),
    )


def in_groups(items: Iterable[T], key: Callable[[T], Hashable | None], most: int) -> Iterator[list[T]]:
    """Groups of at most `most` items with equal keys, in order of their first items; without a key, an item is alone.

    >>> list(in_groups("abcABd", lambda letter: letter.lower() if letter in "aAbB" else None, 2))
    [['a', 'A'], ['b', 'B'], ['c'], ['d']]
    """
    groups: list[list[T]] = []
    open_groups: dict[Hashable, list[T]] = {}
    for item in items:
        kind = key(item)
        group = open_groups.get(kind) if kind is not None else None
        if group is None or len(group) == most:
            group = []
            groups.append(group)
            if kind is not None:
                open_groups[kind] = group
        group.append(item)
    yield from groups


def is_greedy(model: Any) -> bool:
    """Whether `generate` with `do_sample=False` decodes one greedy sequence per row, by the checkpoint's settings."""
    config = model.generation_config
    beams, sequences = getattr(config, "num_beams", 1), getattr(config, "num_return_sequences", 1)
    return beams in (None, 1) and sequences in (None, 1) and not getattr(config, "penalty_alpha", None)

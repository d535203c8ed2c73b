"""Logits processors under `pruned`: they read the ids of the pruned prompt, as with `generate_pruned`.

`repetition_penalty`, `no_repeat_ngram_size`, `min_length`, `bad_words_ids` and others read the prompt. They behave
equally for both ways of pruning, so that `zoo_exp.pruned` and an evaluation give the same ids.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

FROM_THE_END = (
    "MinNewTokensLengthLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "ExponentialDecayLengthPenalty",
    "ForcedEOSTokenLogitsProcessor",
)
"""Processors that count new tokens relative to the original prompt length."""
Translate = Callable[[Tensor], tuple[Tensor, Tensor] | None]


class OnPrunedIds(LogitsProcessor):
    """A processor that reads the ids of the pruned prompt.

    Args:
        inner: the processor.
        translate: function from ids [B, L + t] of the original prompt to ids without dropped visual tokens, and the
            number of padding columns of each row [B]; returns None if nothing was dropped.
    """

    def __init__(self, inner: Any, translate: Translate) -> None:
        self.inner, self._translate = inner, translate

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] after the inner processor."""
        translated = self._translate(input_ids)
        if translated is not None:
            input_ids, padding = translated
            if isinstance(getattr(self.inner, "prompt_ignore_length", None), Tensor):
                self.inner.prompt_ignore_length = padding  # the original prompt has more padding
        processed: Tensor = self.inner(input_ids, scores)
        return processed


def pruned_ids(ids: Tensor, origin: Tensor, length: int, pad: int) -> tuple[Tensor, Tensor] | None:
    """Ids without dropped tokens, and the number of padding columns of each row.

    Args:
        ids: prompt and new tokens [B, length + t].
        origin: column in the prompt of every token that entered the decoder [b, n]; -1 padding; B a multiple of b.
        length: columns of the prompt.
        pad: id for padding that replaces a dropped token.
    """
    if len(ids) % len(origin):
        return None
    origin = origin.to(ids.device).repeat_interleave(len(ids) // len(origin), dim=0)
    prompt = ids[:, :length].gather(1, origin.clamp(min=0)).masked_fill(origin < 0, pad)
    return torch.cat([prompt, ids[:, length:]], dim=1), (origin < 0).sum(dim=1)


def pad_id(model: Any) -> int:
    """The padding id of a model."""
    pad = getattr(model.generation_config, "pad_token_id", None)
    return 0 if pad is None else int(pad)


def attach(model: Any, translate: Translate) -> Callable[[], None]:
    """Make all processors that `generate` builds read translated ids; returns a function that undoes this."""
    original = model._get_logits_processor

    def build(*args: Any, **kwargs: Any) -> LogitsProcessorList:
        config = kwargs.get("generation_config", args[0] if args else None)
        # `generate` turns min_new_tokens into a min_length that counts from the end of the given prompt.
        by_new = getattr(config, "min_new_tokens", None) is not None
        keep = {*FROM_THE_END, *(["MinLengthLogitsProcessor"] if by_new else [])}
        return LogitsProcessorList(
            OnPrunedIds(one, translate) if _reads_prompt(one, keep) else one
            for one in original(*args, **kwargs)
        )

    model.__dict__["_get_logits_processor"] = build
    return lambda: model.__dict__.pop("_get_logits_processor", None)


def _reads_prompt(processor: Any, keep: Collection[str]) -> bool:
    """Whether a processor takes only ids and scores, and is not one of `keep`, which count new tokens."""
    few = len(inspect.signature(processor.__call__).parameters) == 2
    return few and type(processor).__name__ not in keep

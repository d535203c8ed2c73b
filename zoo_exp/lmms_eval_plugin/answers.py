"""Answers of a pruned model to chat turns with pictures, batch by batch."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.lmms_eval_plugin.turns import Ask
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.selectors import registry
from zoo_exp.selectors.layer.base import LayerSelector

_log = logging.getLogger(__name__)
DEFAULT_NEW_TOKENS = 128
"""Longest answer where a task names none; the same as in this package's own runs."""
WITHOUT_BUDGET = ("full", "blind")
"""As in `zoo_exp.config.arms`, which needs omegaconf; lmms-eval's own requirements break that."""
NOT_FOR_GENERATE = ("until", "image_aspect_ratio", "do_sample", "temperature", "top_p", "use_cache")


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: up to the first of the texts that end an answer, stripped.
        kept_tokens: visual tokens that entered the language model.
        prompt_tokens: all tokens that entered it.
        new_tokens: tokens that it wrote, the end mark included.
    """

    text: str
    kept_tokens: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Settings:
    """How answers are decoded.

    Attributes:
        until: texts that end an answer.
        options: arguments of `generate`.
    """

    until: tuple[str, ...]
    options: dict[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Settings":
        """Settings from a task's `generation_kwargs`: greedy unless its temperature is above 0."""
        until = given.get("until") or ()
        options: dict[str, Any] = {"max_new_tokens": int(given.get("max_new_tokens") or DEFAULT_NEW_TOKENS)}
        temperature = float(given.get("temperature") or 0)
        sample = bool(given.get("do_sample", True)) and temperature > 0
        options |= {"do_sample": sample, "num_beams": int(given.get("num_beams") or 1)}
        if sample:
            options |= {"temperature": temperature, "top_p": given.get("top_p") or 1.0}
        ignored = set(given) - {*options, *NOT_FOR_GENERATE}
        if ignored:
            _log.warning("generation_kwargs without an effect here: %s", ", ".join(sorted(ignored)))
        return cls((until,) if isinstance(until, str) else tuple(until), options)


class Answerer:
    """A model with a selector at a budget.

    Args:
        loaded: model, processor and adapter.
        selector: name of an input selector or a layer selector.
        budget: visual tokens that an image keeps: a count (64) or a keep ratio (0.111, "11.1%").
        seed: of selectors that draw.
        positions: `contiguous` or `original`; None takes the family's.
        options: of the selector.

    Raises:
        UnknownNameError: an unknown selector or option.
        InvalidValueError: a budget that is missing, too many, or out of range.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        selector: str,
        budget: int | float | str | None = None,
        seed: int = 0,
        positions: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.loaded, self.seed, self.positions = loaded, seed, positions
        self.rule: Any = registry.get(selector, **(options or {}))
        self.budget = _budget(selector, budget, loaded.n_visual)
        self._whole = registry.get("full")

    @torch.inference_mode()
    def answer(self, asks: Sequence[Ask], settings: Settings) -> list[Answer]:
        """Answers of one batch."""
        adapter, model = self.loaded.adapter, self.loaded.model
        inputs = self._inputs(asks)
        visual = adapter.encode(inputs, self.rule.needs)
        in_layers = isinstance(self.rule, LayerSelector)
        chosen = self._select(asks, visual, self._whole if in_layers else self.rule)
        prompt = prune_prompt(adapter, inputs, visual, chosen, self.positions)
        if in_layers:
            new = generate_layer_pruned(
                adapter, prompt, self.rule, self.budget, **settings.options
            ).new_tokens
        else:
            new = generate_pruned(model, prompt, **settings.options)
        texts = self.loaded.processor.batch_decode(new, skip_special_tokens=True)
        lengths = prompt.attention_mask.sum(dim=1).tolist()
        return [
            Answer(cut(text, settings.until), kept, length, written)
            for text, kept, length, written in zip(
                texts, prompt.kept_tokens, lengths, self._written(new), strict=True
            )
        ]

    def _inputs(self, asks: Sequence[Ask]) -> dict[str, Any]:
        processor = self.loaded.processor
        texts = [processor.apply_chat_template(ask.messages, add_generation_prompt=True) for ask in asks]
        images = [image for ask in asks for image in ask.images]
        inputs = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
        device = self.loaded.model.device
        return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in inputs.items()}

    def _select(
        self, asks: Sequence[Ask], visual: Sequence[Sequence[VisualTokens]], rule: Any
    ) -> list[list[Selection]]:
        """Selections by row and image; the sample's name and the image's number seed the draws."""
        flat = [image for images in visual for image in images]
        generators = [
            generator_for(self.seed, ask.name, number)
            for ask, images in zip(asks, visual, strict=True)
            for number in range(len(images))
        ]
        chosen = iter(rule.select_many(flat, None if rule is self._whole else self.budget, generators))
        return [[next(chosen) for _ in images] for images in visual]

    def _written(self, new: Tensor) -> list[int]:
        """Tokens up to and including the end mark [B]."""
        ends = self.loaded.model.generation_config.eos_token_id
        marks = torch.as_tensor(ends if isinstance(ends, list) else [ends], device=new.device)
        ended = torch.isin(new, marks).cumsum(dim=1).clamp(max=1)
        counts: list[int] = (new.shape[1] - ended.sum(dim=1) + ended.amax(dim=1)).tolist()
        return counts


def cut(text: str, until: Sequence[str]) -> str:
    r"""The text up to the first of the texts that end an answer, stripped.

    >>> cut(" yes\n\nQ: ", ["\n\n"])
    'yes'
    """
    for end in until:
        text = text.split(end)[0]
    return text.strip()


def check_arguments(
    selector: str, budget: int | float | str | None, options: Mapping[str, Any], own: Iterable[str]
) -> None:
    """Refuse what can be refused before a model is loaded; `own` names the arguments that are no options.

    Raises:
        UnknownNameError: a selector, or an argument that neither the plug-in nor the selector has.
        InvalidValueError: an option's value, or the budget.
    """
    known = [item.name for item in fields(registry.get(selector)) if item.init]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"model argument for selector {selector}", name, {*own, *known})
    registry.get(selector, **options)
    _budget(selector, budget, None)


def _budget(selector: str, budget: int | float | str | None, n_visual: int | None) -> Budget | None:
    if selector in WITHOUT_BUDGET:
        if budget is not None:
            raise InvalidValueError(f"selector {selector} takes no budget: leave budget={budget} out")
        return None
    if budget is None:
        raise InvalidValueError(f"selector {selector} needs a budget: add budget=64 or budget=11.1%")
    parsed = Budget.parse(budget)
    if n_visual is not None:
        parsed.resolve(n_visual)
    return parsed

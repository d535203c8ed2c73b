"""Responses of a pruned model to requests of lmms-eval, batch by batch."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from zoo_exp import selectors
from zoo_exp.core.budget import WITHOUT_BUDGET, Budget
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.lmms_eval_plugin.turns import ChatRequest
from zoo_exp.models.answering import DEFAULT_NEW_TOKENS, EncodedBatch, generate
from zoo_exp.models.chat import chat_inputs, to_device
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.responses import Answer

_log = logging.getLogger(__name__)
NOT_FOR_GENERATE = ("until", "image_aspect_ratio", "do_sample", "temperature", "top_p", "use_cache")


@dataclass(frozen=True)
class Settings:
    """Decoding settings.

    Attributes:
        until: stop texts.
        options: arguments of `generate`.
    """

    until: tuple[str, ...]
    options: dict[str, Any]

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Settings":
        """Settings from a task's `generation_kwargs`: greedy decoding unless its temperature is above 0."""
        until = given.get("until") or ()
        options: dict[str, Any] = {"max_new_tokens": int(given.get("max_new_tokens") or DEFAULT_NEW_TOKENS)}
        temperature = float(given.get("temperature") or 0)
        sample = bool(given.get("do_sample", True)) and temperature > 0
        options |= {"do_sample": sample, "num_beams": int(given.get("num_beams") or 1)}
        if sample:
            options |= {"temperature": temperature, "top_p": given.get("top_p") or 1.0}
        ignored = set(given) - {*options, *NOT_FOR_GENERATE}
        if ignored:
            _log.warning("ignored generation_kwargs: %s", ", ".join(sorted(ignored)))
        return cls((until,) if isinstance(until, str) else tuple(until), options)


class Answerer:
    """A model with a selector and a budget.

    Args:
        loaded: model, processor and adapter.
        selector: name of an input selector or a layer selector.
        budget: visual tokens that an image keeps: a count (64) or a keep ratio (0.111, "11.1%").
        seed: of stochastic selectors.
        positions: `contiguous` or `original`; None takes the default of the model family.
        options: of the selector.

    Raises:
        UnknownNameError: an unknown selector or option.
        InvalidValueError: a budget that is missing, superfluous, or out of range.
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
        self.selector: Any = selectors.get(selector, **(options or {}))
        self.budget = _budget(selector, budget, loaded.n_visual)

    @torch.inference_mode()
    def answer(self, requests: Sequence[ChatRequest], settings: Settings) -> list[Answer]:
        """Generate responses for one batch; sample name and image number seed stochastic selectors."""
        loaded = self.loaded
        inputs = to_device(chat_inputs(loaded.processor, requests), loaded.model.device)
        batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, self.selector.captures))
        generated = generate(
            loaded,
            batch,
            self.selector,
            self.budget,
            [request.name for request in requests],
            seed=self.seed,
            positions=self.positions,
            **settings.options,
        )
        return generated.read(loaded, settings.until)


def check_arguments(
    selector: str, budget: int | float | str | None, options: Mapping[str, Any], own: Iterable[str]
) -> None:
    """Check arguments before the model is loaded; `own` lists the plug-in's own arguments.

    Raises:
        UnknownNameError: an unknown selector, or an argument that neither the plug-in nor the selector has.
        InvalidValueError: an invalid option value or budget.
    """
    known = [item.name for item in fields(selectors.get(selector)) if item.init]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"model argument for selector {selector}", name, {*own, *known})
    selectors.get(selector, **options)
    _budget(selector, budget, None)


def _budget(selector: str, budget: int | float | str | None, n_visual: int | None) -> Budget | None:
    if selector in WITHOUT_BUDGET:
        if budget is not None:
            raise InvalidValueError(f"selector {selector} takes no budget: remove budget={budget}")
        return None
    if budget is None:
        raise InvalidValueError(f"selector {selector} needs a budget: add budget=64 or budget=11.1%")
    parsed = Budget.parse(budget)
    if n_visual is not None:
        parsed.resolve(n_visual)
    return parsed

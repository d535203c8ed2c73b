"""The two model classes that lmms-eval asks: with chat messages, and with a text and its pictures."""

import json
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.lmms_eval_plugin.answers import Answerer, Settings, check_arguments
from zoo_exp.lmms_eval_plugin.turns import Ask, from_context, from_messages
from zoo_exp.models.loading import load_model

try:
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
except ImportError:  # the file stays readable for tools that import every module
    lmms = object

ARGUMENTS = (
    "pretrained", "selector", "budget", "seed", "positions", "dtype", "attention", "revision", "device",
    "device_map", "trust_remote_code", "batch_size",
)  # fmt: skip


class ZooExp(lmms):  # type: ignore[misc]
    """A model whose visual tokens are pruned. Other keyword arguments are options of the selector.

    Args:
        pretrained: `embedded`, a hub id, or a folder with a checkpoint.
        selector: a name (python -m zoo_exp list selectors).
        budget: visual tokens that an image keeps: a count (64) or a keep ratio (0.111, "11.1%").
        seed: of selectors that draw.
        positions: `contiguous` or `original`; None takes the family's.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        attention: `sdpa`, `eager` or `flash_attention_2`.
        revision: commit or tag on the hub.
        device: where the model goes; None takes this rank's GPU where there is one.
        device_map: as in `from_pretrained`, in the place of a device.
        trust_remote_code: let a checkpoint bring its own code.
        batch_size: requests per batch.
        max_batch_size: for lmms-eval's signature; has no effect.
        **options: of the selector, such as `fusion=sum`.

    Raises:
        ZooExpError: whatever the user can mend.
    """

    is_simple: ClassVar[bool] = True

    def __init__(
        self,
        pretrained: str,
        selector: str = "full",
        budget: int | float | str | None = None,
        seed: int = 0,
        positions: str | None = None,
        dtype: str = "auto",
        attention: str = "sdpa",
        revision: str | None = None,
        device: str | None = None,
        device_map: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        **options: Any,
    ) -> None:
        if lmms is object:
            raise MissingFileError("lmms-eval is not installed: pip install lmms-eval==0.7.3")
        super().__init__()
        check_arguments(selector, budget, options, ARGUMENTS)
        self.batch_size = _batch_size(batch_size)
        if device is None and device_map is None and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self._model: tuple[Any, dict[str, Any]] = (pretrained, {
            "dtype": dtype, "attention": attention, "revision": revision, "device": device,
            "device_map": device_map, "trust_remote_code": trust_remote_code,
        })  # fmt: skip
        self._rule = (selector, budget, seed, positions, options)
        self._answerer: Answerer | None = self._load()

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval asks when there are several ranks."""
        place: torch.device = self.answerer.loaded.model.device
        return place

    @property
    def answerer(self) -> Answerer:
        """The model with its selector, loaded again after `clean`."""
        if self._answerer is None:
            self._answerer = self._load()
        return self._answerer

    def generate_until(self, requests: Sequence[Any]) -> "list[GenerationResult]":
        """One answer per request, in their order; requests with equal settings share batches."""
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            key = json.dumps(self._settings(request), sort_keys=True, default=str)
            groups.setdefault(key, []).append(place)
        results: dict[int, GenerationResult] = {}
        for places in groups.values():
            settings = Settings.read(self._settings(requests[places[0]]))
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                asks = [self._ask(requests[place]) for place in batch]
                for place, answer in zip(batch, self.answerer.answer(asks, settings), strict=True):
                    counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.new_tokens)
                    results[place] = GenerationResult(text=answer.text, token_counts=counts)
                    request = requests[place]
                    asked = (request.args[0], self._settings(request))
                    self.cache_hook.add_partial("generate_until", asked, answer.text)
        return [results[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not answered: pruning is judged by what a model says."""
        raise InvalidValueError(
            "zoo_exp answers tasks of the kind generate_until; this one asks loglikelihood"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not answered: one round is pruned at a time."""
        raise InvalidValueError(
            "zoo_exp answers tasks of the kind generate_until; this one has several rounds"
        )

    def clean(self) -> None:
        """Give the memory back; the next request loads the model again."""
        self._answerer = None
        super().clean()

    def _load(self) -> Answerer:
        selector, budget, seed, positions, options = self._rule
        path, settings = self._model
        return Answerer(load_model(path, **settings), selector, budget, seed, positions, options)

    def _doc(self, task: str, split: str, doc_id: int) -> tuple[dict[str, Any], str]:
        """The row, and the name that seeds its draws."""
        doc = self.task_dict[task][split][doc_id]
        return doc, sample_name(task, doc, doc_id)

    def _settings(self, request: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _ask(self, request: Any) -> Ask:
        raise NotImplementedError


class ZooExpSimple(ZooExp):
    """Requests (text, settings, function of the pictures, row number, task, split)."""

    is_simple: ClassVar[bool] = True

    def _settings(self, request: Any) -> dict[str, Any]:
        return dict(request.args[1])

    def _ask(self, request: Any) -> Ask:
        context, _, doc_to_visual, doc_id, task, split = request.args
        doc, name = self._doc(task, split, doc_id)
        return from_context(context, doc_to_visual(doc), name)


class ZooExpChat(ZooExp):
    """Requests (text, function of the messages, settings, row number, task, split)."""

    is_simple: ClassVar[bool] = False

    def _settings(self, request: Any) -> dict[str, Any]:
        return dict(request.args[2])

    def _ask(self, request: Any) -> Ask:
        _, doc_to_messages, _, doc_id, task, split = request.args
        doc, name = self._doc(task, split, doc_id)
        return from_messages(doc_to_messages(doc), name)


def sample_name(task: str, doc: dict[str, Any], number: int) -> str:
    """A name of the sample that is the same as in this package's own runs, where the task is known to it."""
    try:
        sample = tasks.get(task).sample_id({**doc, "row": number})
    except (ZooExpError, KeyError):
        sample = str(number)
    return f"{task}/{sample}/0"


def _batch_size(value: int | str) -> int:
    try:
        size = int(value)
    except ValueError:
        size = 0
    if size < 1:
        raise InvalidValueError(f"batch_size {value}: give a whole number of at least 1")
    return size

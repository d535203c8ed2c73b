"""The two model classes for lmms-eval: one for chat messages, one for a text with images."""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.lmms_eval_plugin.answers import Answerer, Settings, check_arguments
from zoo_exp.lmms_eval_plugin.turns import ChatRequest, from_context, from_messages
from zoo_exp.models.llava_protocol import describe
from zoo_exp.models.loading import load_model
from zoo_exp.models.processor_gaps import check_usable

try:
    from lmms_eval.api.instance import GenerationResult, TokenCounts
    from lmms_eval.api.model import lmms
except ImportError:  # keep this file importable for tools that import every module
    lmms = object

_log = logging.getLogger(__name__)
ARGUMENTS = (
    "pretrained", "selector", "budget", "seed", "positions", "dtype", "attention", "revision", "device",
    "device_map", "trust_remote_code", "clip", "protocol", "batch_size",
)  # fmt: skip


class ZooExp(lmms):  # type: ignore[misc]
    """A model with pruned visual tokens. Further keyword arguments are options of the selector.

    Args:
        pretrained: `embedded`, a hub id, or a folder with a checkpoint.
        selector: a name (python -m zoo_exp list selectors).
        budget: visual tokens that an image keeps: a count (64) or a keep ratio (0.111, "11.1%").
        seed: of stochastic selectors.
        positions: `contiguous` or `original`; None takes the default of the model family.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        attention: `sdpa`, `eager` or `flash_attention_2`.
        revision: commit or tag on the hub.
        device: target device; None takes this rank's GPU, or the CPU where there is none.
        device_map: as in `from_pretrained`; replaces `device`.
        trust_remote_code: allow code from the checkpoint.
        clip: folder or hub id of the full CLIP that the vision encoder comes from, for `cdpruner relevance=clip`.
        protocol: `hf`, the processor of transformers, or `llava`, prompts and images of LLaVA's own code, as
            lmms-eval's `llava` (LLaVA-1.5 and LLaVA-NeXT); None takes `hf`, or what a name of `configs/model/` sets.
        batch_size: requests per batch.
        max_batch_size: part of lmms-eval's signature; ignored.
        **options: of the selector, such as `fusion=sum`.

    Raises:
        ZooExpError: any error the user can correct.
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
        clip: str | None = None,
        protocol: str | None = None,
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
            "device_map": device_map, "trust_remote_code": trust_remote_code, "clip": clip,
            "protocol": protocol,
        })  # fmt: skip
        self._selection = (selector, budget, seed, positions, options)
        self._answerer: Answerer | None = self._load()

    @property
    def device(self) -> torch.device:
        """The device of the model; lmms-eval reads it when there are several ranks."""
        place: torch.device = self.answerer.loaded.model.device
        return place

    @property
    def answerer(self) -> Answerer:
        """The model with its selector; loaded again after `clean`."""
        if self._answerer is None:
            self._answerer = self._load()
        return self._answerer

    def generate_until(self, requests: Sequence[Any]) -> "list[GenerationResult]":
        """One response per request, in order; requests with equal settings share batches."""
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            key = json.dumps(self._settings(request), sort_keys=True, default=str)
            groups.setdefault(key, []).append(place)
        results: dict[int, GenerationResult] = {}
        for places in groups.values():
            settings = Settings.read(self._settings(requests[places[0]]))
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                chats = [self._request(requests[place]) for place in batch]
                for place, answer in zip(batch, self.answerer.answer(chats, settings), strict=True):
                    counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.new_tokens)
                    results[place] = GenerationResult(text=answer.text, token_counts=counts)
                    request = requests[place]
                    asked = (request.args[0], self._settings(request))
                    self.cache_hook.add_partial("generate_until", asked, answer.text)
        return [results[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported: pruning is evaluated on generated responses."""
        raise InvalidValueError(
            "zoo_exp supports tasks with output_type generate_until; this task needs loglikelihood"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported: pruning handles one round at a time."""
        raise InvalidValueError(
            "zoo_exp supports tasks with output_type generate_until; this task has several rounds"
        )

    def clean(self) -> None:
        """Free the memory; the next request loads the model again."""
        self._answerer = None
        super().clean()

    def _load(self) -> Answerer:
        selector, budget, seed, positions, options = self._selection
        path, settings = self._model
        loaded = load_model(path, **settings)
        check_usable(loaded.processor, loaded.name)
        # lmms-eval sets up no handler for this logger: a warning is what reaches the console.
        _log.warning("zoo_exp: %s", describe(loaded.protocol, loaded.adapter.family))
        return Answerer(loaded, selector, budget, seed, positions, options)

    def _doc(self, task: str, split: str, doc_id: int) -> tuple[dict[str, Any], str]:
        """The row, and the name that seeds stochastic selectors."""
        doc = self.task_dict[task][split][doc_id]
        return doc, sample_name(task, doc, doc_id)

    def _settings(self, request: Any) -> dict[str, Any]:
        raise NotImplementedError

    def _request(self, request: Any) -> ChatRequest:
        raise NotImplementedError


class ZooExpSimple(ZooExp):
    """Requests (text, settings, function that returns the images, row number, task, split)."""

    is_simple: ClassVar[bool] = True

    def _settings(self, request: Any) -> dict[str, Any]:
        return dict(request.args[1])

    def _request(self, request: Any) -> ChatRequest:
        context, _, doc_to_visual, doc_id, task, split = request.args
        doc, name = self._doc(task, split, doc_id)
        return from_context(context, doc_to_visual(doc), name)


class ZooExpChat(ZooExp):
    """Requests (text, function that returns the messages, settings, row number, task, split)."""

    is_simple: ClassVar[bool] = False

    def _settings(self, request: Any) -> dict[str, Any]:
        return dict(request.args[2])

    def _request(self, request: Any) -> ChatRequest:
        _, doc_to_messages, _, doc_id, task, split = request.args
        doc, name = self._doc(task, split, doc_id)
        return from_messages(doc_to_messages(doc), name)


def sample_name(task: str, doc: dict[str, Any], number: int) -> str:
    """The sample name that a run of this package uses, if it has the task; the row number otherwise."""
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

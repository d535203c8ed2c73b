"""`VllmGenerator`: vLLM in this process (or in processes that it starts) decodes pruned prompts."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_exp.config.engines import FIXED, check_version, installed_version, refuse_inside
from zoo_exp.errors import ZooExpError
from zoo_exp.models import routes
from zoo_exp.models.generators import OnTokens
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.processors import pad_id
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector
from zoo_exp.serving.checkpoints import for_vllm
from zoo_exp.serving.prompt_requests import Checks, Row, image_embeds, prompt_embeds, rows_of
from zoo_exp.serving.sampling import sampling_of
from zoo_exp.serving.stepping import Output, Stepping

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # By default vLLM binds its CPU threads to the first cores, where another process may run.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Environment of vLLM unless the user sets it: nothing is sent to its makers, and its log shows errors only."""


@dataclass(frozen=True)
class EngineOptions:
    """How vLLM is started.

    Attributes:
        via: `auto`, `image_embeds` or `prompt_embeds`.
        tensor_parallel: GPUs that the model is split over.
        max_model_len: longest prompt with its response; None for the checkpoint's own.
        gpu_memory: share of the GPU's memory.
        dtype: as in `load_model`; `auto` for the checkpoint's own.
        revision: commit or tag on the hub.
        images: images per prompt for which vLLM loads the vision encoder; 0 leaves it out, as pruned prompts need none.
        more: further arguments of `vllm.LLM`.
    """

    via: str = "auto"
    tensor_parallel: int = 1
    max_model_len: int | None = None
    gpu_memory: float = 0.6
    dtype: str = "auto"
    revision: str | None = None
    images: int = 0
    more: Mapping[str, Any] | None = None


class Requests:
    """Checked requests from pruned prompts; shared by the engine here and the server over HTTP.

    Args:
        loaded: the model whose vision encoder and selectors made the prompts.
        way: `image_embeds` or `prompt_embeds`.
        longest: longest prompt with its response.
    """

    def __init__(self, loaded: LoadedModel, way: str, longest: int) -> None:
        self.family = loaded.adapter.family_name
        self.route, self.way, self.loaded = routes.route_of(self.family), way, loaded
        config = loaded.model.config
        self.checks = Checks(config.get_text_config().hidden_size, longest, begin_id(loaded.processor))
        self.merge = config.vision_config.spatial_merge_size if self.route.axes else None

    def check(self, selector: Selector | LayerSelector, positions: str) -> None:
        """See `Generator.check`."""
        refuse_inside(selector.name, isinstance(selector, LayerSelector))
        routes.check_positions_of(
            self.family, self.way, positions, selector.name in FIXED, f"selector {selector.name}"
        )

    def made(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        options: Mapping[str, Any],
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The requests of a batch, and their sampling parameters.

        Raises:
            InvalidValueError: a prompt or an option that vLLM does not take; nothing has been sent.
        """
        sampling = sampling_of(self.loaded.model, options, self.way == routes.IMAGE_EMBEDS)
        rows = rows_of(prompt, images, names)
        for row in rows:
            self.checks.check(row, sampling["max_tokens"])
        return [self._request(row) for row in rows], sampling

    def _request(self, row: Row) -> dict[str, Any]:
        if self.way == routes.PROMPT_EMBEDS:
            return prompt_embeds(row)
        return image_embeds(row, self.loaded.adapter.image_token_id, self.merge)

    def padded(self, ids: Sequence[Sequence[int]], names: Sequence[str]) -> Tensor:
        """The ids of all responses [B, T], padded on the right.

        Raises:
            ZooExpError: a response without tokens, a sign of NaN inside the engine.
        """
        for name, row in zip(names, ids, strict=True):
            if not row:
                raise ZooExpError(
                    f"{name}: vLLM returned no token; the weights may be damaged, or the values too large for the dtype"
                )
        width = max(map(len, ids), default=0)
        found = torch.full((len(ids), width), pad_id(self.loaded.model))
        for number, row in enumerate(ids):
            found[number, : len(row)] = torch.tensor(row)
        return found


def begin_id(processor: Any) -> int | None:
    """The beginning-of-sequence token that a processor's tokenizer puts before every text; None if it puts none."""
    tokenizer = getattr(processor, "tokenizer", None)
    begin = getattr(tokenizer, "bos_token_id", None)
    return begin if begin is not None and tokenizer("a").input_ids[:1] == [begin] else None


def longest_of(config: Any, asked: int | None) -> int:
    """Longest prompt with its response: what was asked for, or what the checkpoint's positions allow."""
    return asked or int(config.get_text_config().max_position_embeddings)


def overrides_of(config: Any) -> dict[str, Any]:
    """Settings of a checkpoint in the form that vLLM reads, where it differs from that of transformers.

    A list of ones as `mrope_section` deals frequencies to time, row and column in turn. vLLM calls that interleaved,
    and wants the number of frequencies of each axis.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    section = rope.get("mrope_section") or []
    if len(section) <= 3 or set(section) != {1}:
        return {}
    counts = [len(section[axis::3]) for axis in range(3)]
    return {"text_config": {"rope_parameters": {**rope, "mrope_section": counts, "mrope_interleaved": True}}}


class VllmGenerator:
    """Generates with a vLLM engine that this process owns.

    Several threads may call it at the same time: their requests run together, with continuous batching.

    Args:
        loaded: the model whose vision encoder and selectors make the prompts; its decoder is not used.
        path: folder or hub id of the checkpoint.
        options: how vLLM is started.

    Raises:
        ZooExpError: vLLM is missing, has another version, or cannot load the checkpoint.
    """

    stages = False

    def __init__(self, loaded: LoadedModel, path: str | Path, options: EngineOptions) -> None:
        version = installed_version()
        check_version(version)
        self.name = f"vllm {version}"
        family = loaded.adapter.family_name
        way = routes.way_of(family, options.via)
        config = loaded.model.config
        self.requests = Requests(loaded, way, longest_of(config, options.max_model_len))
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._files = ExitStack()
        folder = self._files.enter_context(for_vllm(str(path)))
        try:
            self._engine = _Steps(_start(folder, loaded, way, options))
        except BaseException:
            self._files.close()
            raise
        self._stepping = Stepping(self._engine)

    def check(self, selector: Selector | LayerSelector, positions: str) -> None:
        """See `Generator.check`."""
        self.requests.check(selector, positions)

    def generate(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        on_tokens: OnTokens | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Generator.generate`."""
        requests, sampling = self.requests.made(prompt, images, names, options)
        return self.requests.padded(self.answer(requests, sampling, on_tokens), names)

    def answer(
        self,
        requests: Sequence[dict[str, Any]],
        sampling: Mapping[str, Any],
        on_tokens: OnTokens | None = None,
    ) -> list[list[int]]:
        """New ids of requests that were checked (`Requests.made`), in their order.

        Raises:
            ZooExpError: the engine has ended, or refuses a request.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(**sampling, output_kind=RequestOutputKind.DELTA, detokenize=False)
        try:
            return self._stepping.run([(request, params.clone()) for request in requests], on_tokens)
        except BaseException as error:
            raise _translated(error) from error

    def close(self) -> None:
        """End the engine and its processes."""
        with self._stepping.alone():
            self._engine.close()
            self._files.close()


class _Steps:
    """vLLM's engine as `Stepping` uses it.

    Args:
        llm: `vllm.LLM`; None once it has ended.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def add(self, name: str, request: Any) -> None:
        """Take a pair of prompt and sampling parameters."""
        self._running().add_request(name, *request)

    def step(self) -> Iterator[Output]:
        """Advance all requests."""
        engine = self._running()
        if not engine.has_unfinished_requests():
            raise ZooExpError("vLLM has lost a request")
        for output in engine.step():
            yield Output(output.request_id, list(output.outputs[0].token_ids), output.finished)

    def abort(self, names: Sequence[str]) -> None:
        """Forget requests."""
        self._running().abort_request(list(names))

    def close(self) -> None:
        """End the engine and its processes."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def _running(self) -> Any:
        if self._llm is None:
            raise ZooExpError("vLLM's engine has ended: start it again")
        return self._llm.llm_engine


def _translated(error: BaseException) -> BaseException:
    """An error of vLLM as one of ours; others, such as a reader's or Ctrl-C, stay as they are."""
    module = type(error).__module__.partition(".")[0]
    if module == "vllm" or (isinstance(error, RuntimeError) and module == "builtins"):
        line = " ".join(str(error).split())[:300] or type(error).__name__
        return ZooExpError(f"vLLM: {line}. Rerun the same command to resume")
    return error


def _start(path: str | Path, loaded: LoadedModel, way: str, options: EngineOptions) -> Any:
    """Start an engine; its vision encoder is left out unless images are asked for.

    Raises:
        ZooExpError: vLLM cannot load the checkpoint, or has no memory.
    """
    given: dict[str, Any] = {
        "model": str(path),
        "dtype": options.dtype,
        "revision": options.revision,
        "tensor_parallel_size": options.tensor_parallel,
        "gpu_memory_utilization": options.gpu_memory,
        "max_model_len": longest_of(loaded.model.config, options.max_model_len),
        "limit_mm_per_prompt": {"image": options.images, "video": 0},
        "hf_overrides": overrides_of(loaded.model.config),
        "trust_remote_code": False,
        "load_format": "safetensors",
        "seed": 0,
        "disable_log_stats": True,
        "enable_mm_embeds": way == routes.IMAGE_EMBEDS,
        "enable_prompt_embeds": way == routes.PROMPT_EMBEDS,
        # Every image is sent once: a cache of processed images would only take memory.
        "mm_processor_cache_gb": 0,
        **({} if torch.cuda.is_available() else {"enforce_eager": True}),
        **(options.more or {}),
    }
    try:
        from vllm import LLM
    except Exception as error:  # its own dependencies may be missing or of another version
        line = " ".join(str(error).split())[:200]
        raise ZooExpError(
            f"engine=vllm: vLLM cannot be imported ({line}): install it again (docs/vllm.md)"
        ) from error
    try:
        return LLM(**given)
    except Exception as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise ZooExpError(
            f"engine=vllm cannot start on {loaded.name} ({line}): lower engine.gpu_memory or engine.max_model_len, or "
            "use engine=hf"
        ) from error

"""Run one batch in stages, for which `bench` measures time and memory and counts FLOPs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.measure.counter import counting
from zoo_exp.models import answering
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.loading import LoadedModel
from zoo_exp.selectors.layer.base import (
    LayerAnswer,
    LayerSelector,
    LayerView,
    Prompt,
    WrappedLayerSelector,
)

STAGES = ("preprocess", "vision", "projector", "score", "select", "prompt", "prefill", "decode")
"""In order of execution.

preprocess: the processor and the transfer to the device. vision: the vision encoder, including what the selector
captures from it. projector. score and select: the selector (the work of a layer selector is `select`, subtracted from
`prefill`). prompt: the tensors of the pruned prompt. prefill: up to the logits of the first new token. decode: all
later tokens.
"""
SELECTOR = ("score", "select")
FIRST_TOKEN = STAGES[1:-1]


class Probe(Protocol):
    """Measures stages: a clock, a memory counter or a FLOPs counter."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure the block."""


@dataclass(frozen=True)
class Outcome:
    """Sizes of a batch and its responses.

    Attributes:
        tokens: visual tokens by row and image, before pruning.
        kept_tokens: visual tokens that entered the language model, by row.
        layer_tokens: visual tokens at the input of every decoder layer, by row.
        length: columns of the prompt that entered the language model, including padding.
        new_tokens: ids [B, T].
        inside: whether a layer selector pruned inside the language model.
    """

    tokens: list[list[VisualTokens]]
    kept_tokens: list[int]
    layer_tokens: list[list[int]]
    length: int
    new_tokens: Tensor
    inside: bool


@torch.inference_mode()
def answer(
    loaded: LoadedModel,
    prepare: Callable[[], Mapping[str, Any]],
    selector: Any,
    budget: Any,
    new_tokens: int,
    probe: Probe,
    seed: int = 0,
) -> Outcome:
    """Generate responses of exactly `new_tokens` tokens for one batch of prompts.

    Args:
        loaded: the model.
        prepare: creates the model inputs, on the model's device.
        selector: an input or layer selector.
        budget: visual tokens to keep per image.
        new_tokens: T, equal for all arms so that decoding times are comparable.
        probe: measures the stages.
        seed: seed of stochastic selectors.
    """
    adapter = loaded.adapter
    with probe.stage("preprocess"):
        inputs = prepare()
    with probe.stage("vision"), _projector(adapter, probe):
        tokens = adapter.encode(inputs, selector.captures)
    generated = generate(
        loaded,
        EncodedBatch(inputs, tokens),
        selector,
        budget,
        [f"bench/{number}" for number in range(len(tokens))],
        seed=seed,
        probe=_Stages(probe),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )
    prompt, layers = generated.prompt, generated.layers
    counts = (
        [[kept] * len(adapter.layers) for kept in prompt.kept_tokens] if layers is None else layers.counts
    )
    return Outcome(
        tokens,
        prompt.kept_tokens,
        counts,
        prompt.inputs_embeds.shape[1],
        generated.new_tokens,
        layers is not None,
    )


class _MeasuredLayers(WrappedLayerSelector):
    """A layer selector whose work is measured as the stage `select`."""

    def __init__(self, inner: LayerSelector, probe: Probe) -> None:
        super().__init__(inner)
        self.probe = probe

    def start(self, prompt: Prompt) -> object:
        with self.probe.stage("select"):
            return super().start(prompt)

    def pick(self, view: LayerView, count: int, state: object) -> LayerAnswer:
        with self.probe.stage("select"):
            return super().pick(view, count, state)


class _Stages(answering.Probe):
    """Measures the stages of `generate`, splits generation into prefill and decode, and times layer selectors."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def stage(self, name: str) -> AbstractContextManager[None]:
        return self.probe.stage(name)

    def layer_selector(self, selector: LayerSelector) -> LayerSelector:
        return _MeasuredLayers(selector, self.probe)

    @contextmanager
    def generation(self) -> Iterator[dict[str, Any]]:
        """`generate` calls the logits processor with the logits of every new token; the first call ends the prefill."""
        from transformers import LogitsProcessorList

        with ExitStack() as running:
            running.enter_context(self.probe.stage("prefill"))
            prefilled = False

            def mark(input_ids: Tensor, logits: Tensor) -> Tensor:
                nonlocal prefilled
                if not prefilled:
                    prefilled = True
                    running.close()
                    running.enter_context(self.probe.stage("decode"))
                return logits

            yield {"logits_processor": LogitsProcessorList([mark])}


@contextmanager
def _projector(adapter: Any, probe: Probe) -> Iterator[None]:
    """Measure the projector, which runs inside the vision stage."""
    (module,) = adapter.taps(frozenset()).values()
    running = ExitStack()
    handles = [
        module.register_forward_pre_hook(lambda *_: running.enter_context(probe.stage("projector"))),
        module.register_forward_hook(lambda *_: running.close()),
    ]
    try:
        yield
    finally:
        running.close()
        for handle in handles:
            handle.remove()


@dataclass
class FlopProbe:
    """FLOPs of every stage as counted by torch; use it inside `with probe:`."""

    flops: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create the counter."""
        self._counter = counting()

    def __enter__(self) -> "FlopProbe":
        self._counter.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._counter.__exit__(*details)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block."""
        before = self._counter.get_total_flops()
        yield
        self.flops[name] = self.flops.get(name, 0) + self._counter.get_total_flops() - before


def exclusive(values: Mapping[str, float], inside: bool) -> dict[str, float]:
    """Subtract nested stages: the projector from vision, and a layer selector from prefill.

    Args:
        values: value of each stage that ran.
        inside: whether the selector is a layer selector.
    """
    out = dict.fromkeys(STAGES, 0.0) | dict(values)
    out["vision"] -= out["projector"]
    if inside:
        out["prefill"] -= out["select"]
    return out

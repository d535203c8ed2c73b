"""One batch of answers, stage by stage: what the bench times, and what it looks at for memory and FLOPs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo_exp.core.checks import deferred_checks
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.measure.counter import counting
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.selectors.layer.base import LayerSelector

STAGES = ("preprocess", "vision", "projector", "score", "select", "prompt", "prefill", "decode")
"""In the order in which they run.

preprocess: the processor, and the way to the device. vision: the tower, with what the selector captures from it.
projector. score and select: the selector (a layer selector's work is `select`, taken out of `prefill`). prompt:
the pruned prompt's tensors. prefill: up to the logits of the first new token. decode: every later token.
"""
SELECTOR = ("score", "select")
FIRST_TOKEN = STAGES[1:-1]


class Probe(Protocol):
    """Looks at a stage: a clock, a memory or a FLOP counter."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Look at the block."""


@dataclass(frozen=True)
class Outcome:
    """What a batch of answers was made of.

    Attributes:
        tokens: visual tokens by row and image, before pruning.
        kept_tokens: visual tokens that entered the language model, by row.
        layer_tokens: visual tokens at the input of every decoder layer, by row.
        length: columns of the prompt that entered the language model, padding included.
        new_tokens: ids [B, T].
    """

    tokens: list[list[VisualTokens]]
    kept_tokens: list[int]
    layer_tokens: list[list[int]]
    length: int
    new_tokens: Tensor


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
    """Answer one batch of prompts with exactly `new_tokens` tokens each.

    Args:
        loaded: the model.
        prepare: makes the model's inputs, on its device.
        selector: an input or layer selector.
        budget: what it keeps.
        new_tokens: T, the same for every arm, so that decoding times compare.
        probe: looks at the stages.
        seed: of selectors that draw.
    """
    adapter = loaded.adapter
    with probe.stage("preprocess"):
        inputs = prepare()
    with probe.stage("vision"), _projector(adapter, probe):
        tokens = adapter.encode(inputs, selector.needs)
    inside = isinstance(selector, LayerSelector)
    # No stage waits for the device on behalf of the selector: the host queues the prefill while the tower runs.
    with deferred_checks(), ExitStack() as scope:
        chosen = _everything(tokens) if inside else _select(tokens, selector, budget, probe, seed)
        with probe.stage("prompt"):
            prompt = prune_prompt(adapter, inputs, tokens, chosen)
        steps = _Steps(probe, scope)
        options = _options(new_tokens, steps)
        if inside:
            watched = _watched(selector, probe)
            answered = generate_layer_pruned(adapter, prompt, watched, budget, **options)
            ids, layers = answered.new_tokens, answered.counts
        else:
            ids = generate_pruned(loaded.model, prompt, **options)
            layers = [[kept] * len(adapter.layers) for kept in prompt.kept_tokens]
    return Outcome(tokens, prompt.kept_tokens, layers, prompt.inputs_embeds.shape[1], ids)


def _select(
    tokens: Sequence[Sequence[VisualTokens]], selector: Any, budget: Any, probe: Probe, seed: int
) -> list[list[Selection]]:
    """Score, then select, all images of the batch at once as the evaluation does."""
    images = [image for row in tokens for image in row]
    generators = [
        generator_for(seed, f"bench/{number}", place)
        for number, row in enumerate(tokens)
        for place in range(len(row))
    ]
    with probe.stage("score"):
        scores = [selector.score(image, g) for image, g in zip(images, generators, strict=True)]
    with probe.stage("select"):
        chosen = iter(selector.select_many(images, budget, generators, scores))
        return [[next(chosen) for _ in row] for row in tokens]


def _everything(tokens: Sequence[Sequence[VisualTokens]]) -> list[list[Selection]]:
    return [[Selection(torch.arange(image.count, device=image.device)) for image in row] for row in tokens]


class _Steps:
    """Marks the end of the prefill and of decoding: `generate` calls it with the logits of every new token."""

    def __init__(self, probe: Probe, scope: ExitStack) -> None:
        self.probe, self.stage, self.started = probe, ExitStack(), False
        scope.push(self.stage)
        self.stage.enter_context(probe.stage("prefill"))

    def __call__(self, input_ids: Tensor, logits: Tensor) -> Tensor:
        if not self.started:
            self.started = True
            self.stage.close()
            self.stage.enter_context(self.probe.stage("decode"))
        return logits


def _options(new_tokens: int, steps: _Steps) -> dict[str, Any]:
    from transformers import LogitsProcessorList

    return {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "logits_processor": LogitsProcessorList([steps]),
    }


@contextmanager
def _projector(adapter: Any, probe: Probe) -> Iterator[None]:
    """Look at the projector where it runs, inside the vision stage."""
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


def _watched(selector: LayerSelector, probe: Probe) -> LayerSelector:
    """The layer selector with its `start` and `pick` looked at."""
    watched = copy.copy(selector)
    for name in ("start", "pick"):
        method = getattr(selector, name)

        def looked_at(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            with probe.stage("select"):
                return method(*args, **kwargs)

        object.__setattr__(watched, name, looked_at)  # its dataclass is frozen
    return watched


@dataclass
class FlopProbe:
    """FLOPs of every stage as torch counts them; use it inside `with probe:`."""

    flops: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take a counter."""
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
    """Stages without the stages inside them: the projector lies in vision, a layer selector in the prefill.

    Args:
        values: of each stage that ran.
        inside: whether the selector is a layer selector.
    """
    out = dict.fromkeys(STAGES, 0.0) | dict(values)
    out["vision"] -= out["projector"]
    if inside:
        out["prefill"] -= out["select"]
    return out

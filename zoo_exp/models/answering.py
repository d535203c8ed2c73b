"""Generate responses: a batch of prompts under one selector, from model inputs to text.

    chat.chat_inputs -> adapter.encode -> select -> prune_prompt -> generate -> decode, cut

This is the only implementation: the evaluation, the lmms-eval plug-in, `bench`, the token analysis and the benchmarks
call these functions. A `Probe` measures the stages.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.checks import deferred_checks
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.models.encoded_batch import EncodedBatch
from zoo_exp.models.generators import Generator, HfGenerator, OnTokens, Watched
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt, check_positions, prune_prompt
from zoo_exp.models.pruning import LayerPruned, generate_layer_pruned
from zoo_exp.models.responses import Answer, count_new, cut
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector

DEFAULT_NEW_TOKENS = 128
"""Maximum response length if the task does not set one."""


class Probe:
    """Observes the stages of `generate`; this base class does nothing.

    Stages in order: `score` and `select` (input selectors), `prompt`, and those of `generation`.
    """

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Enclose one stage."""
        return nullcontext()

    def layer_selector(self, selector: LayerSelector) -> LayerSelector:
        """The layer selector to run in place of `selector`, of the same type."""
        return selector

    @contextmanager
    def generation(self) -> Iterator[dict[str, Any]]:
        """Enclose `model.generate`; yields further arguments for it."""
        yield {}


@dataclass(frozen=True)
class Rating:
    """Token scores of some images.

    Attributes:
        scores: one [N] per image, or None for selectors without scores.
        states: generator states after scoring; every arm continues from them.
        milliseconds: duration of scoring.
    """

    scores: list[Tensor | None]
    states: list[Tensor]
    milliseconds: float

    def generators(self) -> list[torch.Generator]:
        """New generators in the states after scoring."""
        fresh = [torch.Generator() for _ in self.states]
        for generator, state in zip(fresh, self.states, strict=True):
            generator.set_state(state)
        return fresh


@dataclass
class Ratings:
    """Scores of one batch, shared by arms whose selectors compute equal scores (different fusion or budget).

    Attributes:
        synchronise: waits for the device, so that measured times include its work.
    """

    synchronise: Callable[[], None] = lambda: None
    known: dict[Hashable, Rating] = field(default_factory=dict)

    def rate(
        self,
        selector: Selector,
        images: Sequence[VisualTokens],
        generators: Sequence[torch.Generator],
        key: Hashable,
    ) -> Rating:
        """The selector's scores of the images; `key` identifies images and seeds."""
        place = (selector.score_key, key)
        if place not in self.known:
            source, before = selector.rescores, 0.0
            rated: Sequence[Tensor | None] | None = None
            if source is not None:
                shared = self.rate(source, images, generators, key)
                rated, generators, before = shared.scores, shared.generators(), shared.milliseconds
            started = time.perf_counter()
            if rated is None:
                for image in images:
                    selector.check(image)
                scores = [selector.score(t, g) for t, g in zip(images, generators, strict=True)]
            else:
                scores = [
                    selector.rescored(s, t, g) for s, t, g in zip(rated, images, generators, strict=True)
                ]
            self.synchronise()
            milliseconds = before + (time.perf_counter() - started) * 1e3
            self.known[place] = Rating(scores, [g.get_state() for g in generators], milliseconds)
        return self.known[place]


@dataclass(frozen=True)
class Selected:
    """Selections of one batch.

    Attributes:
        selections: by row and image.
        scores: by row and image [N]; None for selectors without scores.
        milliseconds: duration of scoring and selection, including scoring that was shared with another arm.
    """

    selections: list[list[Selection]]
    scores: list[list[Tensor | None]]
    milliseconds: float = 0.0


def select(
    selector: Selector,
    tokens: Sequence[Sequence[VisualTokens]],
    budget: Budget | None,
    names: Sequence[str],
    *,
    seed: int = 0,
    ratings: Ratings | None = None,
    probe: Probe | None = None,
) -> Selected:
    """Run an input selector over all images of a batch in one call.

    Args:
        selector: the input selector.
        tokens: visual tokens by row and image.
        budget: visual tokens to keep per image.
        names: one name per row; the generator of an image is seeded from (seed, name, number of the image in its row).
        seed: seed of stochastic selectors.
        ratings: scores computed for other arms of the batch.
        probe: observes the stages `score` and `select`.
    """
    ratings, probe = ratings or Ratings(), probe or Probe()
    places = tuple(
        (name, number) for name, row in zip(names, tokens, strict=True) for number in range(len(row))
    )
    images = [image for row in tokens for image in row]
    generators = [generator_for(seed, name, number) for name, number in places]
    with probe.stage("score"):
        rating = ratings.rate(selector, images, generators, places)
    started = time.perf_counter()
    with probe.stage("select"):
        chosen = selector.select_many(images, budget, rating.generators(), rating.scores)
    ratings.synchronise()
    milliseconds = rating.milliseconds + (time.perf_counter() - started) * 1e3
    found, scores = iter(chosen), iter(rating.scores)
    return Selected(
        [[next(found) for _ in row] for row in tokens],
        [[next(scores) for _ in row] for row in tokens],
        milliseconds,
    )


def keep_all(tokens: Sequence[Sequence[VisualTokens]]) -> Selected:
    """Selections of every visual token, for layer selectors."""
    return Selected(
        [[Selection(torch.arange(image.count, device=image.device)) for image in row] for row in tokens],
        [[None for _ in row] for row in tokens],
    )


@dataclass(frozen=True)
class Generated:
    """Generated ids for a batch under one selector.

    Attributes:
        selected: selections before the language model.
        prompt: the pruned prompts.
        new_tokens: ids [B, T], padded on the right.
        layers: result of a layer selector; None for input selectors.
        generate_ms: duration of pruning the prompts, prefill and decoding.
        spent_ms: duration of this call, without scores from `ratings`.
        arms_in_call: arms that one call of `model.generate` answered; the durations are this arm's share, by rows.
    """

    selected: Selected
    prompt: PrunedPrompt
    new_tokens: Tensor
    layers: LayerPruned | None
    generate_ms: float
    spent_ms: float
    arms_in_call: int = 1

    def read(self, loaded: LoadedModel, until: Sequence[str]) -> list[Answer]:
        """Decode the responses and cut them at the stop texts `until`."""
        texts = loaded.processor.batch_decode(self.new_tokens, skip_special_tokens=True)
        rows = len(self.prompt.kept_tokens)
        return [
            Answer(cut(text, until), kept, layer_tokens, length, new, selections)
            for text, kept, layer_tokens, length, new, selections in zip(
                texts,
                self.prompt.kept_tokens,
                [None] * rows if self.layers is None else self.layers.counts,
                self.prompt.attention_mask.sum(dim=1).tolist(),
                count_new(loaded.model, self.new_tokens),
                self.selected.selections,
                strict=True,
            )
        ]


@dataclass(frozen=True)
class Prepared:
    """One arm of a batch, ready for `model.generate`.

    Attributes:
        selected: selections before the language model.
        prompt: the pruned prompts.
        started: time before selection, in seconds of `time.perf_counter`.
        chosen: time after it.
    """

    selected: Selected
    prompt: PrunedPrompt
    started: float
    chosen: float


def prepare(
    loaded: LoadedModel,
    batch: EncodedBatch,
    selector: Selector | LayerSelector,
    budget: Budget | None,
    names: Sequence[str],
    *,
    seed: int = 0,
    positions: str | None = None,
    ratings: Ratings | None = None,
    probe: Probe | None = None,
) -> Prepared:
    """Select and prune one batch; the arguments are those of `generate`."""
    probe, started = probe or Probe(), time.perf_counter()
    if isinstance(selector, LayerSelector):
        selected = keep_all(batch.tokens)
    else:
        selected = select(selector, batch.tokens, budget, names, seed=seed, ratings=ratings, probe=probe)
    chosen = time.perf_counter()
    with probe.stage("prompt"):
        prompt = prune_prompt(loaded.adapter, batch.inputs, batch.tokens, selected.selections, positions)
    return Prepared(selected, prompt, started, chosen)


def generate(
    loaded: LoadedModel,
    batch: EncodedBatch,
    selector: Selector | LayerSelector,
    budget: Budget | None,
    names: Sequence[str],
    *,
    seed: int = 0,
    positions: str | None = None,
    ratings: Ratings | None = None,
    probe: Probe | None = None,
    generator: Generator | None = None,
    on_tokens: OnTokens | None = None,
    **options: Any,
) -> Generated:
    """Select, prune and generate for one batch.

    Args:
        loaded: the model.
        batch: encoded prompts.
        selector: an input or layer selector.
        budget: visual tokens to keep per image.
        names: one name per row, see `select`.
        seed: seed of stochastic selectors.
        positions: `contiguous` or `original`; None for the default of the model family.
        ratings: scores shared with other arms; with `synchronise`, times include work on the device.
        probe: observes the stages.
        generator: the engine; None for `transformers`.
        on_tokens: receives the ids of each row as they are generated.
        **options: arguments of `model.generate`.

    Raises:
        InvalidValueError: a budget that does not fit, features that are not finite, logits that are NaN, or a selector
            or option that the engine does not have.
    """
    adapter, ratings, probe = loaded.adapter, ratings or Ratings(), probe or Probe()
    generator = generator or HfGenerator(loaded.model)
    generator.check(selector, check_positions(positions, adapter))
    layers: LayerPruned | None = None
    # Checks of features are deferred: each would make the host wait for the GPU. tests/models/test_device_discipline.py
    # has the waits that remain before the prefill, each with its reason.
    with deferred_checks():
        inside = probe.layer_selector(selector) if isinstance(selector, LayerSelector) else None
        ready = prepare(
            loaded,
            batch,
            selector,
            budget,
            names,
            seed=seed,
            positions=positions,
            ratings=ratings,
            probe=probe,
        )
        selected, prompt = ready.selected, ready.prompt
        with probe.generation() as more:
            processors = [p for given in (options, more) for p in given.get("logits_processor", ())]
            more = {**options, **more, **({"logits_processor": processors} if processors else {})}
            if inside is None:
                images = kept_by_image(selected)
                new_tokens = generator.generate(prompt, images, names, on_tokens=on_tokens, **more)
            else:
                watched = Watched(loaded.model, on_tokens)
                layers = generate_layer_pruned(adapter, prompt, inside, budget, **watched.options(more))
                watched.refuse(names)
                new_tokens = layers.new_tokens
    ratings.synchronise()
    finished = time.perf_counter()
    return Generated(
        selected,
        prompt,
        new_tokens,
        layers,
        (finished - ready.chosen) * 1e3,
        (finished - ready.started) * 1e3,
    )


def kept_by_image(selected: Selected) -> list[list[int]]:
    """By row, the number of kept visual tokens of each image."""
    return [[len(chosen.indices) for chosen in row] for row in selected.selections]

"""Hooks on decoder layers that run layer selectors and shorten the sequence between layers."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.layer_inputs import LayerInputs
from zoo_exp.models.row_attention import RowAttention, note, plain, watch
from zoo_exp.models.segments import Segment
from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector, LayerView, Prompt


@dataclass
class LayerPass:
    """One forward pass of the language model.

    Attributes:
        prefill: whether the pass is a prefill; tokens are dropped only then.
        segments: one per run of layers with the same sequence; a prefill appends to it.
        cache: the key-value cache, or None.
        inputs: first layer of a segment -> real tokens [B, S] and positions of the tokens that its layers read.
        overrides: (first layer of a segment, kind of layer) -> what such layers read instead of mask and positions.
        embeds: input embeddings of the prefill [B, n, D].
        answers: layer -> one `LayerAnswer` per row.
        counts: visual tokens at the input of each layer, by row [B][n_layers].
    """

    prefill: bool
    segments: list[Segment]
    cache: Any
    inputs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    overrides: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    embeds: Tensor | None = None
    states: list[object] = field(default_factory=list)
    schedules: list[dict[int, int]] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)
    answers: dict[int, list[LayerAnswer]] = field(default_factory=dict)
    counts: list[list[int]] = field(default_factory=list)

    def segment_of(self, layer: int) -> Segment:
        """The segment that a layer reads."""
        return [segment for segment in self.segments if segment.first <= layer][-1]


_KNOWN = ("hidden_states", "attention_mask", "position_ids", "position_embeddings", "cache_position")


class _Running(threading.local):
    """The current pass of a thread."""

    current: LayerPass | None = None


class LayerHooks:
    """Runs a layer selector in the decoder of a model.

    Attributes:
        answers: for the last prompt, layer -> one `LayerAnswer` per row.
        counts: for the last prompt, visual tokens at the input of each layer, by row [B][n_layers].
        segments: segments of the last prompt, the whole prompt first; empty without visual tokens.
    """

    def __init__(self, llm: Any, selector: LayerSelector, budget: Any, *, verify: bool = False) -> None:
        self._llm: Any = llm
        self._verify = verify or not all(plain(layer) for layer in llm.layers)
        self._proved: dict[int, str] = {}
        self._inputs = LayerInputs(llm, verify=self._verify)
        self._layers: Any = self._llm.layers
        self.selector = selector
        self._budget = budget
        self._positions = selector.positions or "original"
        self._at = selector.layers(len(self._layers))
        self._running = _Running()
        self.answers: dict[int, list[LayerAnswer]] = {}
        self.counts: list[list[int]] = []
        self.segments: list[Segment] = []

    @property
    def current(self) -> LayerPass | None:
        """The current pass of this thread."""
        return self._running.current

    @current.setter
    def current(self, value: LayerPass | None) -> None:
        self._running.current = value

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles.

        Raises:
            InvalidValueError: a decoder whose attention cannot be read, or whose later layers cannot be shortened.
        """
        name = self.selector.name
        self._inputs.check(name, min(self._at, default=0) + 1)
        watched = {number: watch(self._layers[number], name, number) for number in self._at}
        handles = []
        for number, layer in enumerate(self._layers):
            handles.append(layer.register_forward_pre_hook(self._before(number), with_kwargs=True))
            if number not in self._at:
                continue
            for part, (module, inside) in watched[number].items():
                if self._verify or part not in ("v_proj", "v_norm", "o_proj"):
                    hook = note(self._noted, part, inside)
                    place = module.register_forward_pre_hook if inside else module.register_forward_hook
                    handles.append(place(hook))
            handles.append(layer.register_forward_hook(self._behind(number), with_kwargs=True))
        return handles

    def start(self, current: LayerPass, embeds: Tensor) -> None:
        """Start a prompt: parse budgets and call the selector's `start`, row by row.

        Raises:
            InvalidValueError: the budget does not fit, or training would run the hooks twice.
        """
        self._refuse_recomputing()
        with torch.no_grad():
            self._prepare(current, embeds)

    def check_added_rows(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse to drop tokens before layers to whose output the language model adds rows of visual tokens.

        Raises:
            InvalidValueError: the selector acts too early.
        """
        rows = kwargs.get("deepstack_visual_embeds")
        levels = len(rows) if isinstance(rows, list | tuple | dict) else 0
        if levels and min(self._at, default=levels) < levels:
            raise InvalidValueError(
                f"selector {self.selector.name} drops tokens behind layer {min(self._at) + 1}, but this model adds "
                f"rows of its vision encoder behind layers 1 to {levels} (DeepStack): let it act later, "
                f"with k={levels + 1}"
            )

    def _prepare(self, current: LayerPass, embeds: Tensor) -> None:
        current.embeds = embeds
        segment, n_layers = current.segments[0], len(self._layers)
        counts = segment.visual.sum(dim=1).tolist()
        for b, count in enumerate(counts):
            current.schedules.append(self.selector.schedule(self._budget, count, n_layers) if count else {})
            real = segment.mask[b].nonzero().squeeze(1)
            prompt = Prompt(embeds[b, real], segment.visual[b, real], n_layers, self._budget)
            current.states.append(self.selector.start(prompt) if count else None)
        current.counts = [[count] * n_layers for count in counts]
        self.answers, self.counts, self.segments = current.answers, current.counts, current.segments

    def _refuse_recomputing(self) -> None:
        """Refuse gradient checkpointing: older versions of `transformers` run hooks again on recomputation."""
        layer = self._layers[0]
        checkpoints = layer.training and getattr(layer, "gradient_checkpointing", False)
        if checkpoints and torch.is_grad_enabled() and type(layer).__call__ is not nn.Module.__call__:
            raise InvalidValueError(
                "a layer selector cannot be trained through with gradient checkpointing on this version of "
                "transformers: switch checkpointing off, or take transformers 5.23"
            )

    def decode(self, current: LayerPass, embeds: Tensor, new: Tensor, past: int) -> None:
        """Masks and positions of all later segments for tokens after the prompt."""
        generated = past - current.segments[0].length
        step = torch.arange(embeds.shape[1], device=embeds.device) + generated
        for segment in current.segments[1:]:
            current.inputs[segment.first] = segment.decode_mask(generated, new), segment.after(step)

    def _before(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            current = self.current
            if current is None:
                return None
            segment, hidden = current.segment_of(number), args[0] if args else kwargs["hidden_states"]
            embeddings = kwargs.get("position_embeddings")
            if current.prefill:
                self._inputs.verify(number, hidden, current.segments[0].positions, embeddings)
            if segment.first in current.inputs:
                self._refuse_more(args[1:], kwargs)
                key = (segment.first, self._inputs.kind(number))
                if key not in current.overrides:
                    mask, positions = current.inputs[segment.first]
                    given = kwargs.get("attention_mask")
                    current.overrides[key] = self._inputs.arguments(
                        number, segment.to(hidden.device), hidden, mask, positions, current.cache, given
                    )
                kwargs = {**kwargs, **current.overrides[key]}
            if current.prefill and number in self._at:
                current.noted = {"position_embeddings": kwargs["position_embeddings"]}
            return args, kwargs

        return hook

    def _refuse_more(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse layers that read more per token than states, mask and positions (per-layer embeddings)."""
        more = [f"argument {i + 1}" for i, a in enumerate(args) if isinstance(a, Tensor)]
        more += [n for n, a in kwargs.items() if isinstance(a, Tensor) and n not in _KNOWN]
        if more:
            raise InvalidValueError(
                f"selector {self.selector.name} drops tokens between decoder layers, and the layers of this model read "
                f"more for every token ({', '.join(more)}): take a selector before the language model, such as zoo"
            )

    def _noted(self) -> dict[str, Any] | None:
        current = self.current
        return current.noted if current is not None and current.prefill else None

    def _behind(self, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, _: tuple[Any, ...], __: dict[str, Any], output: Any) -> Any:
            current = self.current
            if current is None or not current.prefill:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            shorter = self._prune(current, number, module, hidden)
            if shorter is None:
                return None
            return (shorter, *output[1:]) if isinstance(output, tuple) else shorter

        return hook

    def _prune(self, current: LayerPass, number: int, module: Any, hidden: Tensor) -> Tensor | None:
        segment = current.segments[-1].to(hidden.device)
        noted, current.noted = current.noted, {}
        if number in self._proved:
            noted["turn"] = self._proved[number]
        row_attention = RowAttention(module.self_attn, noted, segment, self._inputs.allowed(segment, number))
        if self._verify and number not in self._proved:
            with torch.no_grad():
                row_attention.prove(self.selector.name)
            self._proved[number] = str(noted["turn"])
        with torch.no_grad():
            answers = [
                self._pick(current, number, hidden, row_attention, segment, b) for b in range(len(hidden))
            ]
        current.answers[number] = answers
        keep, seen_before = segment.mask & ~segment.visual, [row[number] for row in current.counts]
        for b, answer in enumerate(answers):
            keep[b, segment.visual[b].nonzero().squeeze(1)[answer.indices]] = True
            seen = len(answer.indices) + (0 if answer.merged is None else len(answer.merged))
            after = current.counts[b][number + 1 :]
            current.counts[b][number + 1 :] = [seen] * len(after)
        merged = [hidden[b, :0] if a.merged is None else a.merged for b, a in enumerate(answers)]
        if all(len(a.indices) == n for a, n in zip(answers, seen_before, strict=True)) and not any(
            map(len, merged)
        ):
            return None
        order, shorter = segment.shorten(keep, number + 1, self._positions)
        hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
        if any(len(m) for m in merged):
            hidden, shorter = shorter.insert(hidden, merged, self._positions)
        current.segments.append(shorter)
        current.inputs[number + 1] = shorter.mask.long(), shorter.positions
        return hidden

    @property
    def _norm(self) -> Any:
        """The decoder's final norm."""
        names = ("norm", "final_layernorm", "embedding_norm", "ln_f")
        found = next((m for m in (getattr(self._llm, n, None) for n in names) if m is not None), None)
        if found is None:
            raise InvalidValueError(f"{type(self._llm).__name__} has no known final norm")
        return found

    def _pick(
        self,
        current: LayerPass,
        number: int,
        hidden: Tensor,
        attention: "RowAttention",
        segment: Segment,
        b: int,
    ) -> LayerAnswer:
        real = segment.mask[b].nonzero().squeeze(1)
        visual = segment.visual[b, real]
        n_visual, count = current.counts[b][number], current.schedules[b].get(number)
        if not n_visual or count is None:
            return LayerAnswer(torch.arange(n_visual, device=hidden.device))
        place = current.segments[0].mask[b].to(hidden.device).long().cumsum(dim=0) - 1
        source = segment.source[b, real]
        view = LayerView(
            layer=number,
            hidden=hidden[b, real],
            visual=visual,
            source=torch.where(source < 0, source, place[source.clamp(min=0)]),
            attention=lambda rows: attention.rows(b, real[rows])[..., real],
            keys=lambda: attention.keys(b)[real],
            gravity=lambda rows: attention.gravity(b, real[rows])[:, real],
            norm=self._norm,
        )
        count = min(count, n_visual)
        answer = self.selector.pick(view, count, current.states[b])
        self.selector.check_answer(answer, n_visual, count)
        return answer

"""Hooks on decoder layers: attention of a few rows, and the hand-over to a shorter sequence."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.segments import Segment
from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector, LayerView, Prompt


@dataclass
class LayerPass:
    """One forward pass of the language model.

    Attributes:
        prefill: whether the prompt is read (tokens are dropped then, and only then).
        segments: one per run of layers with the same sequence; a prefill appends to it.
        cache: the key-value cache, or None.
        overrides: first layer of a segment -> what its layers get instead of the given mask and positions.
        embeds: input embeddings of the prefill [B, n, D].
        answers: layer -> one `LayerAnswer` per row.
        counts: visual tokens at the input of each layer, by row [B][n_layers].
    """

    prefill: bool
    segments: list[Segment]
    cache: Any
    overrides: dict[int, dict[str, Any]] = field(default_factory=dict)
    embeds: Tensor | None = None
    states: list[object] = field(default_factory=list)
    schedules: list[dict[int, int]] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)
    answers: dict[int, list[LayerAnswer]] = field(default_factory=dict)
    counts: list[list[int]] = field(default_factory=list)

    def override(self, layer: int) -> dict[str, Any] | None:
        """What the layer's call must be changed to."""
        found = None
        for first, arguments in self.overrides.items():
            if first <= layer:
                found = arguments
        return found


class _Running(threading.local):
    """The pass that a thread is in."""

    current: LayerPass | None = None


class LayerHooks:
    """Carries out a layer selector on the decoder of a model.

    Attributes:
        answers: of the last prompt: layer -> one `LayerAnswer` per row.
        counts: of the last prompt: visual tokens at the input of each layer, by row [B][n_layers].
        segments: of the last prompt, the whole one first; none where it had no visual token.
    """

    def __init__(self, llm: Any, selector: LayerSelector, budget: Any) -> None:
        self._llm: Any = llm
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
        """The pass that this thread is in."""
        return self._running.current

    @current.setter
    def current(self, value: LayerPass | None) -> None:
        self._running.current = value

    def attach(self) -> list[RemovableHandle]:
        """Place the hooks; the caller removes them."""
        handles = []
        for number, layer in enumerate(self._layers):
            handles.append(layer.register_forward_pre_hook(self._before(number), with_kwargs=True))
            if number in self._at:
                for name in ("q_proj", "k_proj"):
                    handles.append(getattr(layer.self_attn, name).register_forward_hook(self._note(name)))
                handles.append(layer.register_forward_hook(self._behind(number), with_kwargs=True))
        return handles

    def start(self, current: LayerPass, embeds: Tensor) -> None:
        """Begin a prompt: budgets and the rule's own preparation, row by row.

        Raises:
            InvalidValueError: a budget that does not fit, or training that would run the hooks twice.
        """
        self._refuse_recomputing()
        with torch.no_grad():
            self._prepare(current, embeds)

    def _prepare(self, current: LayerPass, embeds: Tensor) -> None:
        current.embeds = embeds
        segment, n_layers = current.segments[0], len(self._layers)
        counts = segment.visual.sum(dim=1).tolist()
        for b, count in enumerate(counts):
            current.schedules.append(self.selector.schedule(self._budget, count, n_layers) if count else {})
            real = segment.mask[b]
            prompt = Prompt(embeds[b, real], segment.visual[b, real], n_layers, self._budget)
            current.states.append(self.selector.start(prompt) if count else None)
        current.counts = [[count] * n_layers for count in counts]
        self.answers, self.counts, self.segments = current.answers, current.counts, current.segments

    def _refuse_recomputing(self) -> None:
        """Older versions of `transformers` run the hooks of a layer again when its activations are recomputed."""
        layer = self._layers[0]
        checkpoints = layer.training and getattr(layer, "gradient_checkpointing", False)
        if checkpoints and torch.is_grad_enabled() and type(layer).__call__ is not nn.Module.__call__:
            raise InvalidValueError(
                "a layer selector cannot be trained through with gradient checkpointing on this version of "
                "transformers: switch checkpointing off, or take transformers 5.23"
            )

    def decode(self, current: LayerPass, embeds: Tensor, new: Tensor, past: int) -> None:
        """Masks and positions of every later segment for tokens behind the prompt."""
        generated = past - current.segments[0].length
        step = torch.arange(embeds.shape[1], device=embeds.device) + generated
        for segment in current.segments[1:]:
            mask = segment.decode_mask(generated, new)
            current.overrides[segment.first] = self._arguments(
                current, segment, embeds, mask, segment.after(step)
            )

    def _arguments(
        self, current: LayerPass, segment: Segment, hidden: Tensor, mask: Tensor, positions: Tensor
    ) -> dict[str, Any]:
        from transformers.masking_utils import create_causal_mask

        return {
            "attention_mask": create_causal_mask(
                config=self._llm.config,
                inputs_embeds=hidden,
                attention_mask=mask,
                past_key_values=current.cache,
                layer_idx=segment.first,
            ),
            "position_embeddings": self._llm.rotary_emb(hidden, positions),
            "position_ids": None,
        }

    def _before(self, number: int) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            current = self.current
            if current is None:
                return None
            changed = current.override(number)
            if changed is not None:
                kwargs = {**kwargs, **changed}
            if current.prefill and number in self._at:
                current.noted = {"position_embeddings": kwargs["position_embeddings"]}
            return args, kwargs

        return hook

    def _note(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if self.current is not None and self.current.prefill:
                self.current.noted[name] = output.detach()

        return hook

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
        row_attention = RowAttention(module.self_attn, current.noted, segment)
        current.noted = {}
        with torch.no_grad():
            answers = [
                self._pick(current, number, hidden, row_attention, segment, b) for b in range(len(hidden))
            ]
        current.answers[number] = answers
        keep = segment.mask & ~segment.visual
        for b, answer in enumerate(answers):
            keep[b, segment.visual[b].nonzero().squeeze(1)[answer.indices]] = True
            seen = len(answer.indices) + (0 if answer.merged is None else len(answer.merged))
            after = current.counts[b][number + 1 :]
            current.counts[b][number + 1 :] = [seen] * len(after)
        merged = [hidden[b, :0] if a.merged is None else a.merged for b, a in enumerate(answers)]
        if bool((keep == segment.mask).all()) and not any(len(m) for m in merged):
            return None
        order, shorter = segment.shorten(keep, number + 1, self._positions)
        hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
        if any(len(m) for m in merged):
            hidden, shorter = shorter.insert(hidden, merged, self._positions)
        current.segments.append(shorter)
        current.overrides[number + 1] = self._arguments(
            current, shorter, hidden, shorter.mask.long(), shorter.positions
        )
        return hidden

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
        n_visual = int(visual.sum())
        count = current.schedules[b].get(number)
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
            norm=self._llm.norm,
        )
        return self.selector.pick(view, min(count, n_visual), current.states[b])


class RowAttention:
    """Attention of chosen rows of one layer, from the outputs of its query and key projections."""

    def __init__(self, attention: Any, noted: dict[str, Any], segment: Segment) -> None:
        self._attention = attention
        self._queries, self._keys = noted["q_proj"], noted["k_proj"]
        self._cos, self._sin = noted["position_embeddings"]
        self._mask = segment.mask

    def rows(self, b: int, index: Tensor) -> Tensor:
        """Probabilities [H, r, n] of the query rows `index` [r] of batch row b."""
        groups = self._attention.num_key_value_groups
        query = self._rotate(self._queries[b, index], b, index)
        key = self._rotate(self._keys[b], b, None).repeat_interleave(groups, dim=0)
        logits = query @ key.transpose(-1, -2) * self._attention.scaling
        column = torch.arange(key.shape[1], device=key.device)
        hidden = (column > index[:, None]) | ~self._mask[b]
        probabilities: Tensor = logits.float().masked_fill(hidden, float("-inf")).softmax(dim=-1)
        return probabilities

    def keys(self, b: int) -> Tensor:
        """Rotated keys of batch row b [n, Hkv * d]."""
        return self._rotate(self._keys[b], b, None).transpose(0, 1).flatten(1)

    def gravity(self, b: int, index: Tensor) -> Tensor:
        """Product of rotated vectors of ones, over sqrt(d), of rows `index` [r] with all: [r, n]."""
        ones = self._keys.new_ones(self._keys.shape[1], self._attention.head_dim, dtype=torch.float32)
        turned = self._rotate(ones, b, None)[0]
        product: Tensor = turned[index] @ turned.T * self._attention.head_dim**-0.5
        return product

    def _rotate(self, x: Tensor, b: int, index: Tensor | None) -> Tensor:
        cos, sin = (t[b if len(t) > 1 else 0] for t in (self._cos, self._sin))
        if index is not None:
            cos, sin = cos[index], sin[index]
        heads = x.unflatten(-1, (-1, self._attention.head_dim)).transpose(0, 1)
        low, high = heads.chunk(2, dim=-1)
        turned: Tensor = heads * cos + torch.cat([-high, low], dim=-1) * sin
        return turned

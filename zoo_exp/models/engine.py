"""`Engine`: prunes inside a running model, with hooks at three points that are removed on `detach`.

The hooks are on the image-feature call, the inner model's call, and the language model with its decoder layers
(docs/engine.md).
"""

import inspect
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.errors import InvalidValueError
from zoo_exp.models import processors
from zoo_exp.models.attention_masks import read_mask
from zoo_exp.models.base import VLMAdapter, count_positions
from zoo_exp.models.holders import refuse_compiled_call
from zoo_exp.models.image_tap import ImageTap
from zoo_exp.models.layer_hooks import LayerHooks, LayerPass
from zoo_exp.models.llm_call import (
    all_states,
    check_output,
    cut_call,
    full_length,
    last_only,
    refuse_positional,
)
from zoo_exp.models.placeholders import check_prompt, given_kinds, placeholders, refuse_video_arguments
from zoo_exp.models.segments import after_largest, first_position, real_tokens, whole_prompt
from zoo_exp.models.self_check import check_keep_all


@dataclass(frozen=True)
class Prefill:
    """State of a prompt during and after its prefill.

    Attributes:
        layers: the pass through the decoder; its segments are the sequences that the layers read.
        origin: column in the original prompt of every token that entered the decoder [B, n]; -1 for padding.
        length: columns of the original prompt.
        next_given: position that the caller uses for the first token after the prompt [B].
        last_only: whether the language model may return only the last token's state.
    """

    layers: LayerPass
    origin: Tensor
    length: int
    next_given: Tensor
    last_only: bool = False


class _Call(threading.local):
    """Thread-local state between the inner model's call and the language model's call, and after it."""

    ids: Tensor | None = None
    kinds: tuple[str, ...] = ()
    counted: bool = False
    running: Prefill | None = None
    origin: tuple[Tensor, int] | None = None


class Engine:
    """Prunes in a model's `forward` and `generate` while attached.

    Attributes:
        adapter: adapter of the model.
        tap: selects tokens before the language model, or None.
        layers: drops tokens between decoder layers, or None.
        kept_tokens: visual tokens of the last prompt that entered the language model, by row.
        visual: visual columns of the prompt [B, L] (bool), if the caller passes embeddings instead of ids.
        force: gather even if every token is kept (for tests).
        self_check: whether to compare the next prompt with images with a run that keeps every token.
    """

    def __init__(
        self,
        adapter: VLMAdapter,
        tap: ImageTap | None,
        layers: LayerHooks | None,
        positions: str,
        *,
        force: bool = False,
        self_check: bool = False,
    ) -> None:
        self.adapter, self.tap, self.layers, self.force = adapter, tap, layers, force
        self.self_check = self_check
        self.kept_tokens: list[int] = []
        self.visual: Tensor | None = None
        self._positions = positions
        self._undo: list[Callable[[], None]] = []
        self._call = _Call()
        self._caches: weakref.WeakKeyDictionary[Any, Prefill] = weakref.WeakKeyDictionary()
        self._signature = inspect.signature(type(adapter.vlm).forward)

    def attach(self) -> None:
        """Register the hooks; on an error all are removed."""
        vlm, llm = self.adapter.vlm, self.adapter.llm
        try:
            if self.tap is not None:
                self._undo.append(self.tap.attach())
                if hasattr(self.adapter.model, "_get_logits_processor"):
                    self._undo.append(processors.attach(self.adapter.model, self._pruned_ids))
            self._undo.append(refuse_video_arguments(self.adapter))
            for handle in (
                vlm.register_forward_pre_hook(self._before_vlm, with_kwargs=True),
                llm.register_forward_pre_hook(self._before_llm, with_kwargs=True),
                llm.register_forward_hook(self._behind_llm),
                *(self.layers.attach() if self.layers is not None else []),
            ):
                self._undo.append(handle.remove)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Remove the hooks and restore the model."""
        while self._undo:
            self._undo.pop()()
        self._call, self.visual = _Call(), None
        if self.layers is not None:
            self.layers.current = None
        self._caches.clear()

    def _before_vlm(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._signature.bind(module, *args, **kwargs).arguments
        kinds = given_kinds(self.adapter, given)
        self.adapter.check_call(given)
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        self._call.ids, self._call.kinds = (ids if kinds else None), kinds
        self._call.counted = given.get("position_ids") is not None
        if kinds:
            refuse_compiled_call()
        check_prompt(self.adapter, ids, past, kinds)

    def _before_llm(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._call.running = None  # left over from a pass that ended with an error
        if self.layers is not None:
            self.layers.current = None
        refuse_positional(args)
        embeds, cache = kwargs.get("inputs_embeds"), kwargs.get("past_key_values")
        if embeds is None:
            return None
        past = int(cache.get_seq_length()) if cache is not None else 0
        if past > 0:
            prompt = self._caches.get(cache)
            return None if prompt is None else (args, self._decode(kwargs, embeds, prompt, past))
        self._call.origin = None
        ids, self._call.ids = self._call.ids, None
        visual = self._columns(embeds)
        if visual is None and ids is not None:
            visual = placeholders(self.adapter, ids, self._call.kinds).to(embeds.device)
        if visual is None or not bool(visual.any()):
            self._forget(len(embeds))
            return None
        return args, self._prefill(kwargs, embeds, cache, ids, visual)

    def _pruned_ids(self, ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """Ids of prompt and new tokens without dropped tokens, and the padding; None if nothing was dropped."""
        if self._call.origin is None:
            return None
        origin, length = self._call.origin
        return processors.pruned_ids(ids, origin, length, processors.pad_id(self.adapter.model))

    def _columns(self, embeds: Tensor) -> Tensor | None:
        """`visual` for the rows of this call: beam search repeats rows, `use_cache=False` extends them."""
        if self.visual is None:
            return None
        copies, longer = len(embeds) // len(self.visual), embeds.shape[1] - self.visual.shape[1]
        rows = self.visual.to(embeds.device).repeat_interleave(copies, dim=0)
        return torch.nn.functional.pad(rows, (0, longer))

    def _forget(self, batch: int) -> None:
        """Reset the state: the last prompt had no visual tokens."""
        self.kept_tokens = [0] * batch
        if self.tap is not None:
            self.tap.selections = [[] for _ in range(batch)]
        if self.layers is not None:
            self.layers.answers, self.layers.segments = {}, []
            self.layers.counts = [[0] * len(self.adapter.layers)] * batch

    def _prefill(
        self, kwargs: dict[str, Any], embeds: Tensor, cache: Any, ids: Tensor | None, visual: Tensor
    ) -> dict[str, Any]:
        mask = kwargs.get("attention_mask")
        real = real_tokens(mask, len(embeds), embeds.shape[1], 0, embeds.device)
        parts = read_mask(mask, real, self.adapter.llm.config)
        positions = self._given_positions(kwargs.get("position_ids"), real)
        following = None if self._call.counted else after_largest(real, positions)
        given = whole_prompt(real, visual, positions, parts, first_position(real, positions), following)
        if self.self_check:
            check_keep_all(self.adapter, kwargs, given)
            self.self_check = False
        segment = given
        if self.tap is not None and ids is not None:
            keep, merged = self.tap.choose(ids.to(embeds.device), real, embeds, self._call.kinds)
            if self.force or merged is not None or not torch.equal(keep, real):
                order, segment = given.shorten(keep, 0, self._positions)
                embeds = embeds if merged is None else merged
                embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
                kwargs = cut_call(kwargs, embeds, order, segment, self.adapter.encoder_inputs)
                self._call.origin = segment.source, given.length
        self.kept_tokens = segment.visual.sum(dim=1).tolist()
        _check_room(cache, segment.length)
        if segment is given and self.layers is None:
            return kwargs
        first = whole_prompt(
            segment.mask,
            segment.visual,
            segment.positions,
            segment.parts,
            segment.start,
            segment.next_position,
        )
        current = LayerPass(True, [first], cache)
        if self.layers is not None:
            kwargs = {**kwargs, **all_states(kwargs)}
            self.layers.check_added_rows(kwargs)
            self.layers.start(current, embeds)
            self.layers.current = current
        following = given.next_position
        self._call.running = Prefill(
            current,
            segment.source,
            given.length,
            following[-1] if following.ndim == 2 else following,
            last_only(kwargs),
        )
        return kwargs

    def _given_positions(self, positions: Tensor | None, real: Tensor) -> Tensor:
        """Positions as passed by the caller [B, L] or [A, B, L]."""
        if positions is None:
            positions = self.adapter.new_positions(real)
        if positions is None:
            return count_positions(real)
        if positions.ndim == 3 and self.adapter.axes is not None:
            positions = positions[-self.adapter.axes :]
        return positions.expand(*positions.shape[:-2], *real.shape)

    def _decode(self, kwargs: dict[str, Any], embeds: Tensor, prompt: Prefill, past: int) -> dict[str, Any]:
        kwargs = dict(kwargs)
        segments = prompt.layers.segments
        first = segments[0]
        generated = past - first.length
        if embeds.shape[1] > 1:
            embeds = kwargs["inputs_embeds"] = self._without_overlap(
                kwargs.get("position_ids"), embeds, prompt, generated
            )
        given = kwargs.get("attention_mask")
        self._check_cache(prompt, generated)
        kwargs |= first.continued(given, embeds, generated)
        if self.layers is not None and len(segments) > 1:
            current = LayerPass(False, segments, prompt.layers.cache)
            new = embeds.shape[1]
            real = (
                given
                if isinstance(given, Tensor) and given.ndim == 2
                else first.source.new_ones(len(embeds), new)
            )
            self.layers.decode(current, embeds, real[:, -new:].long(), past)
            self.layers.current = current
        return kwargs

    def _check_cache(self, prompt: Prefill, generated: int) -> None:
        """Refuse a cache whose layers were cropped by different numbers of tokens."""
        segments, cache = prompt.layers.segments, prompt.layers.cache
        if len(segments) < 2 or cache is None:
            return
        behind = [int(cache.get_seq_length(s.first)) - s.length for s in segments]
        if generated < 0 or any(count != behind[0] for count in behind):
            raise InvalidValueError(
                "assisted generation and prompt lookup do not go with a layer selector, as its layers hold different "
                "numbers of tokens and cannot be cut back alike: leave assistant_model and prompt_lookup_num_tokens "
                "out, or take a selector before the language model"
            )

    def _without_overlap(
        self, positions: Tensor | None, embeds: Tensor, prompt: Prefill, generated: int
    ) -> Tensor:
        """Drop tokens that are in the cache already.

        `generate` cuts a later turn by the length of the cache, which is shorter than the conversation.
        """
        if positions is None:
            return embeds
        new = embeds.shape[1]
        start = (positions[-1] if positions.ndim == 3 else positions)[:, -new]
        overlap = int((prompt.next_given + generated - start).max())
        if not 0 <= overlap < new:
            raise InvalidValueError(
                f"the cache and the {new} new tokens do not line up: they begin {overlap} places before the end of "
                "what the cache holds"
            )
        return embeds[:, overlap:]

    def _behind_llm(self, module: nn.Module, args: Any, output: Any) -> Any:
        running, self._call.running = self._call.running, None
        if self.layers is not None:
            self.layers.current = None
        if running is None:
            return None
        segments = running.layers.segments
        if running.layers.cache is not None:
            self._caches[running.layers.cache] = running
        elif (cache := getattr(output, "past_key_values", None)) is not None:
            self._caches[cache] = running
        if segments[-1].length != running.length or len(segments) > 1 or self.force:
            states = getattr(output, "last_hidden_state", None)
            if (
                running.last_only
                and isinstance(states, Tensor)
                and states.shape[1] == 1 < segments[-1].length
            ):
                return output
            check_output(output, segments[-1].length)
            states = full_length(output.last_hidden_state, segments[-1], running.origin, running.length)
            # A new object, because compiled code may have captured the old one.
            output = type(output)(**{**output, "last_hidden_state": states})
        return output


def _check_room(cache: Any, length: int) -> None:
    """Refuse a static cache that is too small for the prompt, before any layer writes to it."""
    layers = getattr(cache, "layers", None) or [None]
    room = getattr(layers[0], "max_cache_len", None)
    if isinstance(room, int) and 0 < room < length:
        raise InvalidValueError(
            f"the static cache has room for {room} tokens, the pruned prompt has {length}: make it larger by at least "
            f"{length - room}, plus the tokens to generate"
        )

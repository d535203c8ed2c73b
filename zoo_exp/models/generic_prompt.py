"""Pruned prompts of families that the engine has no formula for: the model itself says what its decoder would read.

`prepare` runs the inner model on prompts whose images are encoded already, up to its language model's call. The
arguments of that call are cut to the selected tokens, and `Feed` gives them to `generate` instead of its own.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.attention_masks import read_mask
from zoo_exp.models.base import VLMAdapter, count_positions
from zoo_exp.models.generic_tiles import by_tile
from zoo_exp.models.llm_call import all_states, cut_call
from zoo_exp.models.prompt import PrunedPrompt, check_positions, keep_mask
from zoo_exp.models.segments import Segment, first_position, whole_prompt


class _Reached(Exception):
    """The language model was called with these arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


@torch.no_grad()
def prepare(adapter: VLMAdapter, inputs: Mapping[str, Any], images: Sequence[VisualTokens]) -> dict[str, Any]:
    """Arguments of the language model's call for unpruned prompts.

    Args:
        adapter: of the model.
        inputs: `input_ids` [B, L] and `attention_mask`; pixels are not needed.
        images: visual tokens of all rows, in the order of their placeholders.

    Raises:
        InvalidValueError: the model needs more than its visual tokens.
    """
    vlm, ids = adapter.vlm, inputs["input_ids"]
    known = inspect.signature(type(vlm).forward).parameters
    mask = inputs.get("attention_mask")
    call = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids) if mask is None else mask,
        "use_cache": False,
    }
    visual = (ids == adapter.image_token_id).long()
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in known:
            prefix = torch.zeros_like(visual) if adapter.family_name == "paligemma" else visual
            call[name] = inputs[name] if inputs.get(name) is not None else prefix
    if not images:
        return _reach(adapter, call)
    call |= {n: _no_pixels(n, inputs.get(n), images, adapter) for n in adapter.encoder_inputs if n in known}
    call = {name: value for name, value in call.items() if value is not None}
    failed: Exception | None = None
    outputs = _outputs(images, by_image=getattr(adapter, "levels_by_image", True))
    pixels = [name for name in adapter.pixel_inputs if name in call]
    # MiniCPM-V of transformers 5.17 reads the number of beams from the first axis of packed pixels.
    for output, count in [(output, count) for count in (len(images), 1) for output in outputs]:
        call |= {name: call[name][:count] for name in pixels}
        own, before = vlm.__dict__, vlm.__dict__.get("get_image_features")
        own["get_image_features"] = lambda *args, output=output, **kwargs: output
        try:
            return _reach(adapter, call)
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            failed = failed or error
        finally:
            del own["get_image_features"]
            if before is not None:
                own["get_image_features"] = before
    raise InvalidValueError(
        f"model type '{adapter.family_name}' needs more than the visual tokens of an image to read a prompt "
        f"({failed}): prune it with zoo_exp.pruned, where it encodes its images itself"
    ) from failed


def _reach(adapter: VLMAdapter, call: Mapping[str, Any]) -> dict[str, Any]:
    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(kwargs)

    handle = adapter.llm.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        adapter.vlm.forward(**call)
    except _Reached as reached:
        return reached.arguments
    finally:
        handle.remove()
    raise InvalidValueError(f"model type '{adapter.family_name}' never called its language model")


def _no_pixels(name: str, given: Any, images: Sequence[VisualTokens], adapter: VLMAdapter) -> Tensor | None:
    """What stands for an input of the vision encoder, which is not going to run: sizes as given, but no pixels."""
    device = images[0].device
    if "pixel_values" in name or name in adapter.pixel_inputs:
        return None if name.endswith("local") else torch.zeros(len(images), 1, 1, 1, 1, device=device)
    if isinstance(given, Tensor) and len(given) == len(images):
        return given
    if name == "image_grid_thw" and all(image.grid is not None for image in images):
        vision = adapter.model.config.vision_config
        merge = getattr(vision, "spatial_merge_size", None) or getattr(vision, "merge_size", None) or 1
        grids = [(1, image.grid[0] * merge, image.grid[1] * merge) for image in images if image.grid]
        return torch.tensor(grids, device=device)
    return None


def _outputs(images: Sequence[VisualTokens], *, by_image: bool) -> list[SimpleNamespace]:
    """What `get_image_features` may have given, in the forms that families have."""
    rows = [tile.projected for image in images for tile in by_tile(image)]
    flat = torch.cat(rows)
    levels = [image.deepstack for image in images if image.deepstack is not None]
    forms: list[Any] = [rows, flat]
    if len({len(r) for r in rows}) == 1:
        forms.insert(1, torch.stack(rows))
    outputs = []
    for pooled in forms:
        more: dict[str, Any] = {}
        if levels:
            by_level = [list(level) for level in zip(*levels, strict=True)]
            more["deepstack_features"] = by_level if by_image else [torch.cat(level) for level in by_level]
        outputs.append(SimpleNamespace(pooler_output=pooled, last_hidden_state=pooled, **more))
    return outputs


@torch.no_grad()
def prune_prepared(
    adapter: VLMAdapter,
    inputs: Mapping[str, Any],
    tokens: Sequence[Sequence[VisualTokens]],
    selections: Sequence[Sequence[Selection]],
    positions: str | None,
) -> PrunedPrompt:
    """`prompt.prune_prompt` for a family whose decoder reads more than embeddings, a mask and positions."""
    policy = check_positions(positions, adapter)
    images = [t for row in tokens for t in row]
    keep, real, visual, features = keep_mask(adapter, inputs, tokens, selections)
    call = {**prepare(adapter, inputs, images), **{"use_cache": True}}
    embeds = call["inputs_embeds"]
    parts = read_mask(call.get("attention_mask"), real, adapter.llm.config)
    places = _places(call.get("position_ids"), real)
    whole = whole_prompt(real, visual, places, parts, first_position(real, places))
    order, segment = whole.shorten(keep, 0, policy)
    embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
    if features is not None:
        embeds = embeds.masked_scatter(segment.visual[..., None], features.to(embeds))
    cut = cut_call(call, embeds, order, segment, adapter.encoder_inputs)
    ids = inputs["input_ids"].gather(1, order).masked_fill(segment.visual, _word(inputs, visual, real))
    kept = segment.visual.sum(dim=1).tolist()
    return PrunedPrompt(
        embeds,
        segment.mask.long(),
        segment.positions,
        segment.visual,
        kept,
        Feed(adapter.llm, ids, cut, segment),
    )


def _places(positions: Tensor | None, real: Tensor) -> Tensor:
    """Positions of the unpruned prompts [B, L] or [A, B, L], which `generate` counts over real tokens."""
    if positions is not None and positions.ndim == 3:
        return positions.expand(-1, *real.shape)
    return count_positions(real) + (0 if positions is None else int(positions.flatten()[0]))


def _word(inputs: Mapping[str, Any], visual: Tensor, real: Tensor) -> int:
    """An id that is no placeholder, for the places of visual tokens: `generate` wants ids, the decoder reads rows."""
    text = inputs["input_ids"][real & ~visual]
    return int(text[0]) if len(text) else 0


class Feed:
    """What the decoder reads of pruned prompts.

    Attributes:
        ids: ids of the prompts, with words in the place of visual tokens [B, n].
        call: arguments of the language model's call.
        segment: the prompts as the decoder sees them.
    """

    def __init__(self, llm: Any, ids: Tensor, call: Mapping[str, Any], segment: Segment) -> None:
        self.llm, self.ids, self.call, self.segment = llm, ids, call, segment

    def generate(self, model: Any, **options: Any) -> Any:
        """Let the model answer; any option of `generate` goes that keeps a cache.

        Returns:
            The new tokens only [B, T].

        Raises:
            InvalidValueError: generation without a cache.
        """
        if options.get("use_cache") is False:
            raise InvalidValueError(
                "use_cache=False does not go with prompts that were pruned before: leave it out, or use zoo_exp.pruned"
            )
        handle = self.llm.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
        try:
            answer = model.generate(input_ids=self.ids, attention_mask=self.segment.mask.long(), **options)
        finally:
            handle.remove()
        start = self.ids.shape[1]
        if isinstance(answer, Tensor):
            return answer[:, start:]
        answer.sequences = answer.sequences[:, start:]
        return answer

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        copies = len(embeds) // len(self.ids)
        segment = self.segment.repeat(copies)
        if past == 0:
            own = {
                n: v
                for n, v in self.call.items()
                if n not in ("past_key_values", "use_cache", "logits_to_keep")
            }
            return args, {**kwargs, **_repeat(own, copies, len(self.ids)), **all_states(kwargs)}
        generated = past - segment.length
        return args, {**kwargs, **segment.continued(kwargs.get("attention_mask"), embeds, generated)}


def _repeat(value: Any, copies: int, batch: int) -> Any:
    """Arguments for `copies` beams of every row; the batch stands first, or second where positions have axes."""
    if copies == 1:
        return value
    if isinstance(value, Mapping):
        return {name: _repeat_named(str(name), one, copies, batch) for name, one in value.items()}
    return _repeat_named("", value, copies, batch)


def _repeat_named(name: str, value: Any, copies: int, batch: int) -> Any:
    if isinstance(value, Mapping):
        return _repeat(value, copies, batch)
    if name == "deepstack_visual_embeds":
        raise InvalidValueError(
            "beam search over prompts with DeepStack rows: use zoo_exp.pruned, or one beam"
        )
    if not isinstance(value, Tensor):
        return value
    return value.repeat_interleave(copies, dim=1 if name == "position_ids" and value.ndim == 3 else 0)

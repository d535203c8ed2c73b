"""Classes of vLLM's models that take pruned prompts; made on first use, since they extend classes of vLLM.

`PrunedLlava` takes images with different numbers of tokens in one step, and checkpoints whose vision encoder has the
names that transformers 5.23 writes. `PrunedQwen` reads the positions that embeddings carry (`prompt_requests`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_exp.serving.prompt_requests import BASE, EXTRA

ENCODER_PARTS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm", "head")
"""Modules of CLIP and SigLIP encoders, which published checkpoints have below `vision_tower.vision_model`."""


def __getattr__(name: str) -> Any:
    """Make a class on first use; vLLM and pickle look classes up by name."""
    if name not in _MADE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _MADE[name]()
    return made


def _named(made: type, name: str) -> type:
    made.__name__ = made.__qualname__ = name
    made.__module__ = __name__
    return made


def encoder_names(mapper: Any) -> Any:
    """VLLM's mapper of weight names, which also takes an encoder without `vision_model` in its names."""
    own = {f"vision_tower.{part}.": f"vision_tower.vision_model.{part}." for part in ENCODER_PARTS}
    return mapper | type(mapper)(orig_to_new_prefix=own)


def _llava() -> type:
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration

    class PrunedLlava(LlavaForConditionalGeneration):
        """LLaVA-1.5 whose images may keep different numbers of tokens."""

        hf_to_vllm_mapper = encoder_names(LlavaForConditionalGeneration.hf_to_vllm_mapper)

        def embed_multimodal(self, **kwargs: Any) -> Any:
            """Embeddings of images; those that are embeddings already are taken as they are, one [K, D] per image."""
            embeds = kwargs.get("image_embeds")
            if embeds is None or self.config.vision_config.model_type == "pixtral":
                return super().embed_multimodal(**kwargs)
            return list(embeds)

    return _named(PrunedLlava, "PrunedLlava")


def _llava_next() -> type:
    from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration

    class PrunedLlavaNext(LlavaNextForConditionalGeneration):
        """LLaVA-NeXT; pruned prompts reach it as `prompt_embeds`, which need no class of their own."""

        hf_to_vllm_mapper = encoder_names(LlavaNextForConditionalGeneration.hf_to_vllm_mapper)

    return _named(PrunedLlavaNext, "PrunedLlavaNext")


def _qwen() -> type:
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    class PrunedQwen(Qwen2_5_VLForConditionalGeneration):
        """Qwen2.5-VL whose image embeddings may carry their own positions [K, D + 8]."""

        def embed_multimodal(self, **kwargs: Any) -> Any:
            """Embeddings of images, without the columns of positions."""
            embeds = kwargs.get("image_embeds")
            width = self.config.text_config.hidden_size
            if embeds is None or kwargs.get("pixel_values") is not None or not _carries(embeds, width):
                return super().embed_multimodal(**kwargs)
            merge = self.config.vision_config.spatial_merge_size
            sizes = (kwargs["image_grid_thw"].prod(dim=-1) // merge**2).tolist()
            whole = embeds if isinstance(embeds, Tensor) else torch.cat([part[:, :width] for part in embeds])
            return whole[:, :width].split(sizes)

        def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> Any:
            """Positions [3, L] of a prompt, and what the next position differs from L by."""
            features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
            width = self.config.text_config.hidden_size
            carried = [_embeds_of(feature) for feature in features]
            if not carried or any(e is None or e.shape[-1] != width + EXTRA for e in carried):
                return super().get_mrope_input_positions(input_tokens, mm_features)
            offsets = [feature.mm_position.offset for feature in features]
            positions = positions_of(
                len(input_tokens), offsets, [e[:, width:] for e in carried if e is not None]
            )
            return positions, int(positions.max()) + 1 - len(input_tokens)

    return _named(PrunedQwen, "PrunedQwen")


def _carries(embeds: Any, width: int) -> bool:
    """Whether some embeddings have columns of positions; embeddings of several requests may differ in width."""
    parts: Iterable[Tensor] = [embeds] if isinstance(embeds, Tensor) else embeds
    return any(part.shape[-1] == width + EXTRA for part in parts)


def _embeds_of(feature: Any) -> Tensor | None:
    """The embeddings of an image of a request [K, ...]; None for pixels and videos."""
    data = feature.data
    if data is None or "image_embeds" not in data:
        return None
    embeds = data["image_embeds"].data
    return embeds if isinstance(embeds, Tensor) else None


def positions_of(length: int, offsets: Sequence[int], digits: Sequence[Tensor]) -> Tensor:
    """Positions of a prompt from the digits that its images carry.

    Args:
        length: L, tokens of the prompt.
        offsets: first token of each image, in prompt order.
        digits: columns of each image [K, 8] (see `prompt_requests`).

    Returns:
        [3, L].
    """
    parts, at, following = [], 0, 0
    for offset, columns in zip(offsets, digits, strict=True):
        high, low = columns.round().long().cpu().split(EXTRA // 2, dim=1)
        numbers = high * BASE + low
        text = offset - at
        parts.append(torch.arange(following, following + text).expand(3, -1))
        following += text
        parts.append(numbers[:, :3].T + following)
        following += int(numbers[0, 3])
        at = offset + len(numbers)
    parts.append(torch.arange(following, following + length - at).expand(3, -1))
    return torch.cat(parts, dim=1)


_MADE: dict[str, Callable[[], type]] = {
    "PrunedLlava": _llava,
    "PrunedLlavaNext": _llava_next,
    "PrunedQwen": _qwen,
}

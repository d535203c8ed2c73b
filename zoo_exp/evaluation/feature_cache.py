"""The vision pass with a memory: an image that any earlier run has encoded is read instead of computed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.evaluation.feature_store import FeatureStore
from zoo_exp.models.base import VLMAdapter

_TENSORS = (
    *("projected", "features", "tile", "cls_attention", "received_attention", "keys", "cls", "cls_key"),
)
_NOT_STORED = frozenset({"hidden", "replay", "resize", "clip"})
"""Needs that are functions of the tower, or depend on the question: with one of them the tower runs."""
_FROM_WEIGHTS = frozenset({"projector", "text"})
"""Needs that are filled anew, from the model at hand."""


class FeatureCache:
    """`encode` of an adapter through a store.

    Args:
        adapter: of the model.
        store: where entries lie.
        model_id: names the weights, their revision and dtype, such as the cell's identity of the model.

    Attributes:
        hits: images that were read.
        misses: images that were encoded.
    """

    def __init__(self, adapter: VLMAdapter, store: FeatureStore, model_id: str) -> None:
        self.adapter, self.store, self.model_id = adapter, store, model_id
        self.hits = self.misses = 0

    def encode(self, inputs: Mapping[str, Any], needs: frozenset[str]) -> list[list[VisualTokens]]:
        """As `VLMAdapter.encode`; the tower runs unless every image of the batch is known."""
        shared = getattr(self.adapter, "projector_fields", None)
        unable = needs & _NOT_STORED or ("projector" in needs and shared is None)
        if unable or inputs.get("pixel_values") is None:
            return self.adapter.encode(inputs, needs)
        stored = sorted(needs - _FROM_WEIGHTS)
        keys = [f"{self.model_id}/{','.join(stored)}/{name}" for name in image_hashes(inputs)]
        entries = [self.store.get(key) for key in keys]
        device = inputs["pixel_values"].device
        if all(entry is not None for entry in entries):
            self.hits += len(keys)
            extra = shared(needs) if shared is not None else {}
            images = [_restore(*entry, device, extra) for entry in entries if entry is not None]
            grouped = self.adapter.group_by_row(inputs["input_ids"], images)
            if "text" in needs:
                ids = inputs["input_ids"]
                mask = inputs.get("attention_mask")
                grouped = self.adapter.with_questions(
                    grouped, ids, torch.ones_like(ids) if mask is None else mask
                )
            return grouped
        grouped = self.adapter.encode(inputs, needs)
        images = [image for row in grouped for image in row]
        self.misses += len(images)
        for key, image in zip(keys, images, strict=True):
            tensors = {name: value for name in _TENSORS if (value := getattr(image, name)) is not None}
            self.store.put(key, tensors, {"grid": image.grid})
        return grouped


def image_hashes(inputs: Mapping[str, Any]) -> list[str]:
    """A hash of what the tower sees of every image: its pixels and its shape."""
    pixels: Tensor = inputs["pixel_values"]
    grids = inputs.get("image_grid_thw")
    parts: Sequence[Tensor] = pixels.split(grids.prod(dim=1).tolist()) if grids is not None else list(pixels)
    sizes = inputs.get("image_sizes") if grids is None else grids
    found = []
    for number, part in enumerate(parts):
        raw = part.detach().cpu().contiguous()
        shape = [] if sizes is None else torch.as_tensor(sizes[number]).tolist()
        state = hashlib.sha256(f"{raw.dtype} {list(raw.shape)} {shape}".encode())
        state.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes())
        found.append(state.hexdigest())
    return found


def _restore(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any], device: torch.device, extra: Mapping[str, Any]
) -> VisualTokens:
    grid = facts["grid"]
    fields = {name: value.to(device) for name, value in tensors.items()}
    return VisualTokens(**fields, grid=None if grid is None else (grid[0], grid[1]), **extra)  # type: ignore[arg-type]

"""A cache of the vision pass: images that an earlier run has encoded are read instead of computed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo_exp
from zoo_exp.config.experiment import Experiment
from zoo_exp.config.identity import digest, weights_id
from zoo_exp.config.schema import ModelConfig
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.files import log
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.tensor_store import TensorStore
from zoo_exp.runs.manifest import device

_TENSORS = (
    *(
        "projected",
        "features",
        "tile",
        "cls_attention",
        "received_attention",
        "object_attention",
        "keys",
        "cls",
        "cls_key",
    ),
)
_NOT_STORED = frozenset({"hidden", "replay", "layer_attention", "clip"})
"""Needs that are not stored, because they hold intermediate states or depend on the question: the encoder runs."""
_ANEW = {"projector": "projector_fields", "resize": "with_resizing", "text": "with_questions"}
"""Needs that are computed again from the model and the prompt, and the adapter method that does it."""


class FeatureCache:
    """`encode` of an adapter with a store of its output.

    A batch is read if all of its images are stored, and encoded as a whole otherwise. The last bits of an image may
    depend on the number of images in the batch, because kernels are chosen by shape: on a CPU the attention of a single
    image differs by 1e-7 from that of the same image in a larger batch. Encoding only the new images of a batch would
    create batches that do not occur without a cache, and the answers might differ.

    Args:
        adapter: of the model.
        store: holds the entries.
        model_id: identifies the weights, their revision and dtype, and the machine; see `model_id`.

    Attributes:
        hits: number of images read.
        misses: number of images encoded.
        reasons: why images were encoded although the cache is on.
    """

    def __init__(self, adapter: VLMAdapter, store: TensorStore, model_id: str) -> None:
        self.adapter, self.store, self.model_id = adapter, store, model_id
        self.hits = self.misses = 0
        self.reasons: set[str] = set()
        self._writes = True

    def encode(self, inputs: Mapping[str, Any], needs: frozenset[str]) -> list[list[VisualTokens]]:
        """As `VLMAdapter.encode`; the vision encoder runs unless every image of the batch is stored."""
        unable = {need for need in needs if not hasattr(self.adapter, _ANEW.get(need, "encode"))}
        unable |= needs & _NOT_STORED
        if inputs.get("pixel_values") is None:
            return self.adapter.encode(inputs, needs)
        if unable:
            self.reasons.add(f"a selector needs {' and '.join(sorted(unable))}, which is not stored")
            grouped = self.adapter.encode(inputs, needs)
            self.misses += sum(map(len, grouped))
            return grouped
        if "preactivation" in needs:  # four times the size of the features, from which it can be computed
            self.adapter.calibrate()
            needs -= {"preactivation"}
        stored = sorted(needs - _ANEW.keys())
        keys = [f"{self.model_id}/{','.join(stored)}/{name}" for name in image_hashes(inputs)]
        extra = self.adapter.projector_fields(needs) if "projector" in needs else {}  # type: ignore[attr-defined]
        entries = [self._restored(key, inputs["pixel_values"].device, extra) for key in keys]
        known = [image for image in entries if image is not None]
        if len(known) == len(keys):
            self.hits += len(keys)
            return self._read(known, inputs, needs)
        if known:
            self.reasons.add("a batch with a new image is encoded as a whole")
        grouped = self.adapter.encode(inputs, needs)
        images = [image for row in grouped for image in row]
        self.misses += len(images)
        for key, image, entry in zip(keys, images, entries, strict=True):
            if entry is None:
                self._keep(key, image)
        return grouped

    def _restored(self, key: str, device: torch.device, extra: Mapping[str, Any]) -> VisualTokens | None:
        """The stored image of a key; None where there is none, or none that can be used."""
        entry = self.store.get(key)
        try:
            return None if entry is None else _restore(*entry, device, extra)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            log.warning(f"an entry of the vision cache {self.store.folder} cannot be used ({error!r})")
            return None

    def _read(
        self, images: list[VisualTokens], inputs: Mapping[str, Any], needs: frozenset[str]
    ) -> list[list[VisualTokens]]:
        """A batch from its images, with the fields that come from the model and the prompt."""
        adapter: Any = self.adapter
        if "resize" in needs:
            images = adapter.with_resizing(images, inputs)
        ids = inputs["input_ids"]
        grouped: list[list[VisualTokens]] = adapter.group_by_row(ids, images)
        if "text" in needs:
            mask = inputs.get("attention_mask")
            grouped = adapter.with_questions(grouped, ids, torch.ones_like(ids) if mask is None else mask)
        return grouped

    def _keep(self, key: str, image: VisualTokens) -> None:
        """Store an image; if the folder cannot be written to, the run continues without storing."""
        if image.tiles is not None:  # whole tiles are several times as large as the stored tokens
            self.reasons.add("a selector needs whole tiles, which are not stored")
            return
        if not self._writes:
            return
        tensors = {name: value for name in _TENSORS if (value := getattr(image, name)) is not None}
        try:
            self.store.put(key, tensors, {"grid": image.grid, "heads": image.attention_heads})
        except OSError as error:
            self._writes = False
            log.warning(
                f"vision cache {self.store.folder} cannot be written ({error.strerror or error}); "
                "it is read-only from here on"
            )

    def summary(self) -> str:
        """A one-line summary."""
        line = f"vision cache {self.store.folder}: {self.hits} images read, {self.misses} encoded"
        return "; ".join([line, *sorted(self.reasons)])


def open_cache(experiment: Experiment, loaded: LoadedModel) -> FeatureCache | None:
    """The feature cache of an experiment; None if it has none."""
    if experiment.cache.features is None:
        return None
    store = TensorStore(Path(experiment.cache.features).expanduser(), experiment.cache.limit_gb)
    return FeatureCache(loaded.adapter, store, model_id(experiment.model, loaded.model))


def model_id(config: ModelConfig, model: Any) -> str:
    """Identifies everything besides the pixels that determines the output of a vision pass.

    Weights by content (a hub model by its commit), dtype, attention backend, the CPU or GPU, and the versions of torch,
    transformers and this package.
    """
    import transformers

    return digest(
        {
            "weights": weights_id(config),
            "commit": getattr(model.config, "_commit_hash", None),
            "device": device(),
            "versions": [torch.__version__, transformers.__version__, zoo_exp.__version__],
        }
    )


def image_hashes(inputs: Mapping[str, Any]) -> list[str]:
    """A hash of the encoder's input for every image: pixels and shape."""
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
    known = {"grid": None if grid is None else (grid[0], grid[1]), "attention_heads": facts.get("heads", 1)}
    return VisualTokens(**fields, **known, **extra)  # type: ignore[arg-type]

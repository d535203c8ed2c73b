"""Saves a model with the names of weights that published checkpoints have, for engines other than `transformers`."""

from pathlib import Path
from typing import Any

ENCODER = "vision_tower."
PUBLISHED = "vision_tower.vision_model."
"""Where CLIP's weights are in LLaVA checkpoints on the hub; transformers 5.23 writes them without `vision_model`, and
reads both."""


def save_model_files(model: Any, folder: Path) -> None:
    """Save a model as `save_pretrained` does, with published names of its vision encoder.

    Args:
        model: a Hugging Face model; only LLaVA models have names that differ.
        folder: where to.
    """
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    for path in sorted(Path(folder).glob("*.safetensors")):
        weights = load_file(path)
        named = {published(name): weight for name, weight in weights.items()}
        if named.keys() != weights.keys():
            save_file(named, path, metadata={"format": "pt"})


def published(name: str) -> str:
    """The published name of a weight.

    >>> published("vision_tower.encoder.layers.0.layer_norm1.bias")
    'vision_tower.vision_model.encoder.layers.0.layer_norm1.bias'
    >>> published("visual.merger.ln_q.weight")
    'visual.merger.ln_q.weight'
    """
    own = name.startswith(ENCODER) and not name.startswith(PUBLISHED)
    return name.replace(ENCODER, PUBLISHED, 1) if own else name

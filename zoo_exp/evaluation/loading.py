"""The model that a configuration names."""

from pathlib import Path

import torch

from zoo_exp.config.schema import ModelConfig
from zoo_exp.models.loading import LoadedModel, load_model


def load_configured(model: ModelConfig, device: str | torch.device | None = None) -> LoadedModel:
    """Load a model as its configuration says.

    Args:
        model: from `configs/model/`.
        device: where it goes; None, or a `device_map` in the configuration, leaves that to others.
    """
    folder = Path(model.path).expanduser()
    return load_model(
        folder if folder.is_dir() else model.path,
        revision=model.revision,
        dtype=model.dtype,
        attention=model.attention,
        device=None if model.device_map else device,
        device_map=model.device_map,
        weights=model.weights,
        layers=model.layers,
        trust_remote_code=model.trust_remote_code,
        clip=model.clip,
    )

"""Whether the diagonal sensitivity ranks tokens like the closed form on a model's projector."""

import warnings
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.diagonal import AGREEMENT, agreement, has_diagonal, record_agreement
from zoo_exp.core.sensitivity import Projector
from zoo_exp.models.capture import Capture
from zoo_exp.models.kernel_store import encoder_sample, kept_number

SIZE = (336, 336)
TOKENS = 576
"""Height and width in pixels, and at most how many visual tokens, of the image that is compared."""


def calibrate_diagonal(adapter: Any, mlp: Projector) -> None:
    """Compare both sensitivities on one image, and warn if the diagonal must not be used.

    The image has random pixels, so that the outcome depends on the model alone and not on the question that comes
    first: all ranks and resumed runs decide alike.

    Args:
        adapter: a `VLMAdapter` that can make up images.
        mlp: its projector.
    """
    if not has_diagonal(mlp):
        return
    name = f"agreement {SIZE} {TOKENS} {encoder_sample(adapter)}"
    found = kept_number(mlp, name, lambda: agreement(_made_up_features(adapter), mlp))
    record_agreement(mlp, found)
    if found < AGREEMENT:
        warnings.warn(
            f"estimator=diagonal: its rank correlation with the closed form is {found:.3f} on this model's projector "
            f"(at least {AGREEMENT} is required), so the closed form is used",
            stacklevel=2,
        )


def _made_up_features(adapter: Any) -> Tensor:
    """Projector inputs [N, Dv] of an image of random pixels."""
    features_only = frozenset({"features"})
    weight = next(adapter.model.parameters())
    inputs, _ = adapter.made_up_images(1, SIZE, torch.Generator().manual_seed(0))
    call = {
        name: value.to(weight.device, adapter.model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    with torch.no_grad(), Capture(adapter.taps(features_only)) as capture:
        output = adapter.image_features(**call)
        image = adapter.collect(capture, adapter.pooled(output, call), call, features_only)[0]
    features: Tensor = image.features if image.tile is None else image.features[image.tile >= 0]
    return features[:TOKENS]

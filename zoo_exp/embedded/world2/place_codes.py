"""How a trained LLaVA writes the place of a visual token into its decoder's states, as a target for other families.

The decoder of `embedded` reads places where its own visual tokens carry them. A model that starts from this decoder
carries places in other ways (tiles, M-RoPE); it learns to write them where the decoder looks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.packed_forward import prefixed_forward, vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, make_scene_2

IMAGES, RANK = 256, 2  # more directions also hold what a token shows
FIRST_SCENE = 9 * 10**8  # scenes that no training asks about


class PlaceCodes(nn.Module):
    """Mean normalised states of the visual tokens at each place of a raster, in their few main directions.

    Args:
        means: mean state at each place [rows, cols, D].
        rank: directions kept.
    """

    def __init__(self, means: Tensor, rank: int = RANK) -> None:
        super().__init__()
        centred = means - means.mean((0, 1))
        basis = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False).Vh[:rank]
        codes = (centred @ basis.T).movedim(-1, 0)
        self.register_buffer("middle", means.mean((0, 1)))
        self.register_buffer("basis", basis)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", codes.square().sum(0).mean())

    def forward(self, states: Tensor, places: Tensor) -> Tensor:
        """Squared distance to the codes of the places, relative to the codes' own size; zero decays to it.

        Args:
            states: hidden states of visual tokens [B, N, D].
            places: x and y of each token in -1 to 1 [N, 2].
        """
        normed = functional.rms_norm(states.float(), states.shape[-1:])
        wanted = functional.grid_sample(
            self.codes[None], places[None, None], padding_mode="border", align_corners=False
        )[0, :, 0].T
        return ((normed - self.middle) @ self.basis.T - wanted).square().sum(-1).mean() / self.scale


@torch.no_grad()
def place_codes(llava: Any, layer: int, images: int = IMAGES) -> PlaceCodes:
    """The codes of a LLaVA of world 2 behind a decoder layer.

    Args:
        llava: the model, in float32.
        layer: the layer's number, from 1.
        images: scenes of the mean.
    """
    side, total = BASE_SIDE // PATCH, 0
    sums = torch.zeros(side * side, llava.config.text_config.hidden_size)
    inner = llava.model
    for first in range(0, images, 32):
        scenes = [make_scene_2("train", FIRST_SCENE + first + i) for i in range(min(32, images - first))]
        pixels = normalise(_stack([scene.pixels for scene in scenes]))
        visual = inner.multi_modal_projector(vision_forward(inner.vision_tower, pixels)[0])
        blank = torch.zeros(len(scenes), 1, dtype=torch.long)
        _, probed = prefixed_forward(inner.language_model, visual, (blank, blank, blank), probe_after=layer)
        assert probed is not None
        sums += functional.rms_norm(probed, probed.shape[-1:]).sum(0)
        total += len(scenes)
    return PlaceCodes((sums / total).view(side, side, -1))


def _stack(images: list[Any]) -> Any:
    import numpy as np

    return np.stack(images)

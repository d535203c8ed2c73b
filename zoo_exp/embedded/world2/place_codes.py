"""How the visual tokens of a trained LLaVA carry their place, as a target for other families.

The decoder of `embedded` reads places in its first layer, from two directions of the projected features: where these
are mirrored, its answers to "where is ...?" are mirrored, too. A model that starts from this decoder knows places in
other ways (tiles, M-RoPE). It gets a new layer in front, which learns to write them where the decoder reads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.packed_forward import vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, make_scene_2

IMAGES, RANK = 256, 2  # more directions also hold what a token shows
FIRST_SCENE = 9 * 10**8  # scenes that no training asks about


class PlaceCodes(nn.Module):
    """Mean normalised features of visual tokens at each place of a raster, in their few main directions.

    Args:
        means: mean state at each place [rows, cols, D].
        rank: directions kept, R.

    Attributes:
        middle: mean over the places [D].
        basis: orthonormal directions [R, D].
        codes: coordinates of the places in them [R, rows, cols].
        scale: mean squared length of the codes.
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
        """Mean squared distance to the codes of the places, relative to the codes' own: 1 for states at their middle.

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
def place_codes(llava: Any, images: int = IMAGES) -> PlaceCodes:
    """The codes of a LLaVA of world 2 in its projected features, where its first decoder layer reads them.

    Args:
        llava: the model, in float32.
        images: scenes of the mean.
    """
    side, total = BASE_SIDE // PATCH, 0
    sums = torch.zeros(side * side, llava.config.text_config.hidden_size)
    inner = llava.model
    for first in range(0, images, 32):
        scenes = [make_scene_2("train", FIRST_SCENE + first + i) for i in range(min(32, images - first))]
        pixels = normalise(np.stack([scene.pixels for scene in scenes]))
        projected = inner.multi_modal_projector(vision_forward(inner.vision_tower, pixels)[0])
        sums += functional.rms_norm(projected, projected.shape[-1:]).sum(0)
        total += len(scenes)
    return PlaceCodes((sums / total).view(side, side, -1))

"""The low-rank projector as the release really builds it: random factors in the place of the weights' own."""

import torch
from torch import Tensor

from zoo_exp.core.low_rank import LowRankMLP
from zoo_exp.core.sensitivity import MLP, draw_directions, zeroth_order
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.zoo import Zoo

SPREAD = 0.02
"""Standard deviation that the checkpoint loader gives to weights it does not find (spec: algorithms 1.4)."""


def released_scores(selector: Zoo, tokens: VisualTokens, generator: torch.Generator) -> Tensor | None:
    """S of every token [N] through random factors of the selector's rank; None where the selector has no low rank.

    The factors depend on the rank alone, as weights belong to a model and not to an image.
    """
    if selector.projector != "low_rank" or not isinstance(tokens.mlp, MLP) or tokens.features is None:
        return None
    mlp, rank = tokens.mlp, selector.rank
    source = torch.Generator().manual_seed(rank)

    def draw(*shape: int) -> Tensor:
        return (SPREAD * torch.randn(*shape, generator=source)).to(tokens.device)

    hidden, width = mlp.w1.shape
    projector = LowRankMLP(
        down1=draw(rank, width),
        up1=draw(hidden, rank),
        b1=torch.zeros(hidden, device=tokens.device),
        down2=draw(rank, hidden),
        up2=draw(len(mlp.w2), rank),
        b2=torch.zeros(len(mlp.w2), device=tokens.device),
        approximate=mlp.approximate,
    )
    x = tokens.features
    directions = draw_directions(selector.n_directions, x.shape[1], generator, x.device)
    return zeroth_order(x, projector, directions, selector.step_size)

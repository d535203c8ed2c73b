"""Which visual tokens a thinned prompt of training keeps: an even draw, or a subset that the features decide.

A model that is trained on even draws alone knows no prompt whose tokens have much in common, or nothing: selectors make
such prompts. The subsets here lean towards a random direction of the features, or are spread out, with weights along a
random direction. Those are chosen as DivPrune chooses; no sensitivity and no attention decides a subset.
"""

import random

import torch
from torch import Tensor
from torch.nn import functional

STRONGEST = 4.0
"""Largest weight of a direction beside the noise of the draw, in standard deviations."""
MOST_SPREAD = 160
"""Larger subsets lean: one token after another would take long."""


def subset(features: Tensor, count: int, rng: random.Random, uneven_share: float = 0.0) -> Tensor:
    """Numbers of the tokens that stay, in order.

    Args:
        features: visual tokens [B, N, D].
        count: k, how many stay.
        rng: decides the kind of subset and its strength; the draws themselves come from torch's generator.
        uneven_share: share of the subsets that are uneven, half of them spread out.

    Returns:
        Numbers [B, k].
    """
    if not uneven_share or count == 0 or rng.random() >= uneven_share:
        return torch.rand(features.shape[:2]).argsort(1)[:, :count].sort(1).values.to(features.device)
    with torch.no_grad():
        scores = direction_scores(features.detach().float())
        if count <= MOST_SPREAD and rng.random() < 0.5:
            chosen = spread(features.detach().float(), scores, count, 2 * rng.random())
        else:
            # Gumbel noise: the largest sums are a draw without replacement.
            noise = -torch.empty(scores.shape).exponential_().log().to(scores.device)
            chosen = (STRONGEST * rng.random() * scores + noise).topk(count, dim=1).indices
        return chosen.sort(1).values


def direction_scores(features: Tensor) -> Tensor:
    """Each token along a random direction of its image [B, N], with mean 0 and standard deviation 1."""
    direction = torch.randn(len(features), features.shape[2], 1).to(features.device)
    along = ((features - features.mean(1, keepdim=True)) @ direction)[..., 0]
    return along / along.std(1, keepdim=True).clamp(min=1e-6)


def spread(features: Tensor, scores: Tensor, count: int, power: float) -> Tensor:
    """Tokens far from each other, one after another: the largest weight x smallest cosine distance to those before.

    Args:
        features: visual tokens [B, N, D].
        scores: a number per token [B, N]; from the smallest to the largest, weights rise from 0.05 to 1.
        count: k.
        power: of the weights; 0 weighs all tokens alike.

    Returns:
        Numbers [B, k], in the order of the choice.
    """
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    weights = (0.05 + 0.95 * (scores - low) / (high - low).clamp(min=1e-6)) ** power
    unit = functional.normalize(features, dim=2)
    rows = torch.arange(len(features), device=features.device)
    following = torch.randint(features.shape[1], (len(features),)).to(features.device)
    distance = torch.full(scores.shape, torch.inf, device=features.device)
    chosen = []
    for _ in range(count):
        chosen.append(following)
        from_last = 1 - (unit @ unit[rows, following, :, None])[..., 0]
        distance = torch.minimum(distance, from_last.clamp(min=0.0))
        distance[rows, following] = -1.0  # taken
        following = torch.where(distance < 0, -1.0, weights * distance).argmax(1)
    return torch.stack(chosen, 1)

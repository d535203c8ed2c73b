"""Token merging by density peaks (DPC-kNN), used by SparseVLM to recycle dropped tokens."""

import torch
from torch import Tensor


def merge_by_density(x: Tensor, clusters: int, noise: Tensor | None = None) -> Tensor:
    """Merge tokens into cluster means.

    Density is exp(-mean squared distance to the `clusters` nearest tokens), distances are L2 / sqrt(D). Centres
    are the tokens with the largest product of density and distance to a denser token.

    Args:
        x: tokens [n, D].
        clusters: number of clusters, at most n.
        noise: in [0, 1), added to the densities [n] with a factor of 1e-6; the released code draws it to break ties.
            None breaks ties by order.

    Returns:
        Merged tokens [clusters, D] in descending order of the centres' product: sum over the cluster divided by
        its size + 1e-6.
    """
    n = len(x)
    tokens = x.float()
    distance = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
    nearest = distance.topk(clusters, dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    if noise is None:
        noise = 1 - torch.arange(1, n + 1, device=x.device) / n
    density = density + noise.to(density) * 1e-6
    denser = density[None, :] > density[:, None]
    to_denser = torch.where(denser, distance, distance.max()).min(dim=1).values
    centres = (to_denser * density).sort(descending=True, stable=True).indices[:clusters]
    member = distance[centres].argmin(dim=0)
    member[centres] = torch.arange(clusters, device=x.device)
    weight = (member[:, None] == torch.arange(clusters, device=x.device)).to(tokens.dtype)
    merged: Tensor = (weight.T @ tokens) / (weight.sum(dim=0)[:, None] + 1e-6)
    return merged.to(x.dtype)

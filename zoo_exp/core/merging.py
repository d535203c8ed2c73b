"""Token merging of VisionZip: features of dropped tokens are merged into evenly spaced ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_exp.core.diversity import cosine
from zoo_exp.core.fusion import top_k
from zoo_exp.errors import InvalidValueError


@dataclass(frozen=True)
class Merged:
    """Dominant and contextual tokens.

    Attributes:
        dominant: tokens kept as they are, ascending [Kd].
        targets: tokens into which others are merged, ascending [Kc].
        assigned: number of the target of each remaining token, in ascending order [N - Kd - Kc].
        contextual: features of the targets after merging [Kc, d].
    """

    dominant: Tensor
    targets: Tensor
    assigned: Tensor
    contextual: Tensor


def dominant_and_contextual(
    attention: Tensor, keys: Tensor, features: Tensor, dominant: int, contextual: int
) -> Merged:
    """Split N tokens into dominant, contextual and merged ones.

    Dominant tokens have the most attention. Of the rest, every step-th is a target (step = rest // contextual, so the
    tail contains none); each of the others is merged into the target with the most similar key. As in the release,
    a target's feature becomes its own *plus the mean of the merged ones*, so its norm can double.

    Args:
        attention: attention that each token receives [N].
        keys: keys for the similarity [N, Dk].
        features: features to merge [N, d].
        dominant: number of dominant tokens.
        contextual: number of targets.

    Returns:
        The split, with merged features in the dtype of `features`.

    Raises:
        InvalidValueError: a count is negative, or their sum exceeds N.
    """
    n = len(attention)
    if dominant < 0 or contextual < 0 or dominant + contextual > n:
        raise InvalidValueError(
            f"{dominant} dominant and {contextual} contextual tokens do not fit {n} visual tokens"
        )
    kept = top_k(attention, dominant).sort().values
    is_rest = torch.ones(n, dtype=torch.bool, device=attention.device)
    is_rest[kept] = False
    rest = is_rest.nonzero().flatten()
    step = max(1, len(rest) // max(1, contextual))
    is_target = torch.zeros(len(rest), dtype=torch.bool, device=attention.device)
    is_target[: step * contextual : step] = True
    targets, others = rest[is_target], rest[~is_target]
    if not contextual:
        return Merged(kept, targets, torch.zeros_like(others), features[targets])
    assigned = cosine(keys[others], keys[targets]).argmax(dim=1)
    # A product with a 0/1 matrix instead of index_add, which is not deterministic on a GPU.
    member = (assigned[None] == torch.arange(contextual, device=assigned.device)[:, None]).float()
    mean = member @ features[others].float() / member.sum(dim=1, keepdim=True).clamp_min(1)
    return Merged(kept, targets, assigned, (features[targets].float() + mean).to(features.dtype))

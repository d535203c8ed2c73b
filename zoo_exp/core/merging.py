"""VisionZip's way to keep what it drops: features of dropped tokens join evenly spread ones."""

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
        targets: tokens that take others in, ascending [Kc].
        assigned: for each token that is neither, in ascending order, the number of its target [N - Kd - Kc].
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

    Dominant tokens have the most attention. Of the rest, every step-th is a target (step = rest //
    contextual, so the tail is never one); the others join the target with the most similar key. A target's
    feature becomes its own *plus the mean of the others* (as
    released: not an average, so up to twice as long).

    Args:
        attention: attention that each token gets [N].
        keys: what similarity is measured on [N, Dk].
        features: what is merged [N, d].
        dominant: tokens kept as they are.
        contextual: tokens that take the others in.

    Returns:
        The split, with merged features in the dtype of `features`.

    Raises:
        InvalidValueError: counts below 0 or above N together.
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
    # A product with ones and zeros instead of index_add, whose order of summation is not fixed on a GPU.
    member = (assigned[None] == torch.arange(contextual, device=assigned.device)[:, None]).float()
    mean = member @ features[others].float() / member.sum(dim=1, keepdim=True).clamp_min(1)
    return Merged(kept, targets, assigned, (features[targets].float() + mean).to(features.dtype))

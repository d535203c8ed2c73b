"""Control experiments: scores that carry no information about their token, or the opposite."""

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.selectors.allocation import NEWLINE

CONTROLS = ("none", "shuffled", "inverted")


def controlled(scores: Tensor, tokens: VisualTokens, control: str, generator: torch.Generator) -> Tensor:
    """Scores [N] after a control.

    Args:
        scores: one per visual token [N].
        tokens: the image; scores of newline tokens stay where they are.
        control: `shuffled` permutes the scores randomly, `inverted` subtracts them from the largest, `none` changes
            nothing.
        generator: of the permutation.
    """
    if control == "inverted":
        return scores.amax() - scores if len(scores) else scores
    if control == "shuffled":
        places = torch.arange(len(scores), device=scores.device)
        patches = places if tokens.tile is None else places[tokens.tile != NEWLINE]
        order = torch.randperm(len(patches), generator=generator, device=generator.device).to(scores.device)
        return scores.index_put((patches,), scores[patches[order]])
    return scores

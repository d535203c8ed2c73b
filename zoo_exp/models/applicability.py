"""Whether a selector can prune the images of a prompt at a budget."""

from collections.abc import Sequence

from zoo_exp.core.budget import Budget
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector


def why_not(
    selector: Selector | LayerSelector, budget: Budget | None, images: Sequence[VisualTokens], n_layers: int
) -> str | None:
    """Why a selector cannot prune the images of one prompt at a budget; None where it can."""
    counts = [image.count for image in images]
    try:
        if isinstance(selector, LayerSelector):
            if sum(counts):
                selector.schedule(budget, sum(counts), n_layers)
            return None
        for image in images:
            lacking = [name for name in sorted(selector.needs) if not image.has(name)]
            if lacking:
                return f"selector {selector.name} needs '{lacking[0]}', which this model does not provide"
        if budget is not None and budget.per == "image":
            for count in counts:
                budget.resolve(count)
    except InvalidValueError as error:
        return str(error)
    return None

"""Problems with selectors and budgets that names and numbers alone show: found before torch is imported."""

from collections.abc import Sequence
from typing import Any

from zoo_exp.config.arms import parse_budget, refuse_code
from zoo_exp.config.schema import ArmConfig
from zoo_exp.core.budget import WITHOUT_BUDGET
from zoo_exp.errors import ZooExpError


def early_problems(
    configs: Sequence[ArmConfig], budgets: Sequence[Any], n_visual: int | None
) -> list[ZooExpError]:
    """Unknown selectors and bad budgets, each once; `arms.expand` finds them and all others.

    Args:
        configs: entries of `arms`.
        budgets: budgets of the entries without budgets of their own.
        n_visual: N of the model, or None if it depends on the image.
    """
    from zoo_exp import selectors

    found: dict[str, ZooExpError] = {}
    for config in configs:
        try:
            refuse_code(config.selector)
            name, _ = selectors.resolve(config.selector)
            chosen = budgets if config.budgets is None else config.budgets
            for value in () if name in WITHOUT_BUDGET else chosen:
                parse_budget(value, n_visual)
        except ZooExpError as error:
            found.setdefault(str(error), error)
    return list(found.values())

"""Which arms share a row of the table: the seeds of a random selector do."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SEED_SUFFIX = re.compile(r"[\s,]+\(?(?:seed[ =_]?|#)\d+\)?$")


@dataclass(frozen=True)
class ArmRow:
    """One row of a table.

    Attributes:
        label: what the table shows.
        selector: name of the selector.
        options: its options as sorted JSON.
        budget: the budget as a user types it, or None (`full`, `blind`).
        members: arm ids, one per seed.
        names: labels under which the members were recorded.
    """

    label: str
    selector: str
    options: str
    budget: str | None
    members: tuple[str, ...]
    names: tuple[str, ...]


def group(arms: Iterable[Mapping[str, Any]]) -> list[ArmRow]:
    """Put arms that differ in their seed only into one row.

    The order is the paper's: arms without a budget, then budget by budget, `blind` (no image at all) last;
    within that, order of first appearance. Labels are unique.

    Args:
        arms: mappings with `arm` and `arm_id`; `selector`, `options`, `budget` are read where they are there.
    """
    groups: dict[tuple[str, str, str, str | None], dict[str, str]] = {}
    for arm in arms:
        name = str(arm["arm"])
        options = {key: value for key, value in dict(arm.get("options") or {}).items() if key != "seed"}
        budget = arm.get("budget")
        key = (
            SEED_SUFFIX.sub("", name) or name,
            str(arm.get("selector") or name),
            json.dumps(options, sort_keys=True, default=str),
            None if budget is None else str(budget),
        )
        groups.setdefault(key, {})[str(arm.get("arm_id") or name)] = name
    labels = [label for label, *_ in groups]
    rows = [
        ArmRow(
            label=(label if labels.count(label) == 1 else f"{label} {options}")
            + (f" ({len(members)} seeds)" if len(members) > 1 else ""),
            selector=selector,
            options=options,
            budget=budget,
            members=tuple(members),
            names=tuple(dict.fromkeys(members.values())),
        )
        for (label, selector, options, budget), members in groups.items()
    ]
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))

    def place(row: ArmRow) -> int:
        if row.budget is None:
            return len(budgets) if row.selector == "blind" else -1
        return budgets.index(row.budget)

    return sorted(rows, key=place)

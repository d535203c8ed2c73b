"""Group arms into table rows: the seeds of a stochastic selector share one row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo_exp.runs.records import arm_row


@dataclass(frozen=True)
class ArmRow:
    """One row of a table.

    Attributes:
        label: displayed label: `row`, with the number of seeds if there are several.
        row: common label of the arms; unique in a table.
        selector: name of the selector.
        options: its options as sorted JSON.
        budget: the budget as the user wrote it, or None (`full`, `blind`).
        members: arm ids, one per seed.
        names: labels of the members in the records.
    """

    label: str
    row: str
    selector: str
    options: str
    budget: str | None
    members: tuple[str, ...]
    names: tuple[str, ...]


def group(arms: Iterable[Mapping[str, Any]]) -> list[ArmRow]:
    """Group arms that differ only in their seed into one row.

    Rows are ordered as in the paper: arms without a budget, then budget by budget, and `blind` (no image) last; within
    these, by first appearance.

    Args:
        arms: mappings in the format of `Arm.as_dict`, or of version 1.
    """
    arms = [arm_row(arm) for arm in arms]
    groups: dict[tuple[str, str, str, str | None], dict[str, str]] = {}
    for arm in arms:
        settings = {k: v for k, v in dict(arm["options"]).items() if k not in _counting(arm, arms)}
        options = json.dumps(settings, sort_keys=True, default=str)
        key = str(arm["row"]), str(arm["selector"]), options, arm["budget"]
        groups.setdefault(key, {})[str(arm["arm_id"])] = str(arm["arm"])
    labels = [label for label, *_ in groups]
    rows = []
    for (label, selector, options, budget), members in groups.items():
        row = label if labels.count(label) == 1 else f"{label} {options}"
        seeds = f" ({len(members)} seeds)" if len(members) > 1 else ""
        names = tuple(dict.fromkeys(members.values()))
        rows.append(ArmRow(row + seeds, row, selector, options, budget, tuple(members), names))
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget is not None))

    def place(row: ArmRow) -> int:
        if row.budget is None:
            return len(budgets) if row.selector == "blind" else -1
        return budgets.index(row.budget)

    return sorted(rows, key=place)


def _counting(arm: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> set[str]:
    """Options that number the repetitions of an arm, such as the seed of a method's random weights."""
    same = [other for other in arms if all(other[key] == arm[key] for key in ("row", "selector", "budget"))]
    if len({one["seed"] for one in same}) == 1:
        return set()
    return {name for name in arm["options"] if all(one["options"].get(name) == one["seed"] for one in same)}

"""Successes and failures of one arm, chosen by a rule that is printed beside them."""

from collections.abc import Sequence

from zoo_exp.report.masks import MaskItem
from zoo_exp.statistics.rows import ArmRow

SUCCESS = (
    "Successes, by rule: of each task the first question that {arm} answers right, where most other selectors of "
    "the budget are wrong (of several, the one that fewest others get right)."
)
FAILURE = (
    "Failures, by rule: of each task the first question that the full model answers right and {arm} wrong (of "
    "several, the one that most others get right)."
)


def focus_arm(rows: Sequence[ArmRow]) -> ArmRow | None:
    """ZOO's row with multiplied fusion and nothing else changed, at the smallest budget (the last in the table)."""
    plain = [row for row in rows if row.selector == "zoo" and row.options in ("{}", '{"fusion": "multiply"}')]
    return plain[-1] if plain else None


def successes(items: Sequence[MaskItem], rows: Sequence[ArmRow], focus: ArmRow) -> list[MaskItem]:
    """One question per task at most: `focus` right, at least half of the others of its budget wrong."""
    return _choose(items, rows, focus, want=True)


def failures(items: Sequence[MaskItem], rows: Sequence[ArmRow], focus: ArmRow) -> list[MaskItem]:
    """One question per task at most: the full model right, `focus` wrong."""
    return _choose(items, rows, focus, want=False)


def _choose(items: Sequence[MaskItem], rows: Sequence[ArmRow], focus: ArmRow, want: bool) -> list[MaskItem]:
    others = [
        row.names[0]
        for row in rows
        if row.budget == focus.budget and row.names[0] != focus.names[0] and row.selector != "zoo"
    ]
    full = next((row.names[0] for row in rows if row.selector == "full"), None)
    chosen: list[MaskItem] = []
    for task in dict.fromkeys(item.task for item in items):
        fitting: list[tuple[float, int, MaskItem]] = []
        for place, item in enumerate(item for item in items if item.task == task):
            right = {arm.arm: arm.score >= 0.5 for arm in item.arms}
            known = [right[name] for name in others if name in right]
            if right.get(focus.names[0]) is not want or not known:
                continue
            share = sum(known) / len(known)
            if want and share <= 0.5:
                fitting.append((share, place, item))
            elif not want and full is not None and right.get(full):
                fitting.append((-share, place, item))
        chosen += [min(fitting, key=lambda entry: entry[:2])[2]] if fitting else []
    return chosen

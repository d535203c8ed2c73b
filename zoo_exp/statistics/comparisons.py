"""Paired comparisons between the rows of a table, and which of them deserve bold print."""

from collections.abc import Sequence, Set
from contextlib import suppress

import numpy as np
import pandas as pd

from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.bootstrap import Floats, percentile_interval
from zoo_exp.statistics.intervals import mcnemar, minimum_detectable_difference
from zoo_exp.statistics.rows import ArmRow

COLUMNS = ("arm", "against", "difference", "low", "high", "significant", "detectable")
SLACK = 1.05
"""How far the measured tokens may stand above the budget before a row no longer competes in it."""
SIGN_TEST = ("only_arm_right", "only_against_right", "p_value")


def above_budget(rows: Sequence[ArmRow], samples: Sequence[TaskSamples]) -> set[int]:
    """Rows that kept more visual tokens than their budget names, so that comparing them within it would flatter them.

    Layer selectors are the usual case: the first layers see every token. A budget per tile has no number for
    an image, and what is no budget at all has none either: such rows are never left out.
    """
    found = set()
    for index, row in enumerate(rows):
        kept, before = [], []
        for task in samples:
            members = [task.arm_ids.index(member) for member in row.members if member in task.arm_ids]
            kept.append(task.measured[:, members].ravel())
            before.append(task.n_visual)
        measured, visual = (np.concatenate(values) if values else np.empty(0) for values in (kept, before))
        if row.budget is None or np.isnan(measured).all() or np.isnan(visual).all():
            continue
        with suppress(InvalidValueError):
            budget = Budget.parse(row.budget)
            ratio = budget.keep_ratio
            allowed = float(budget.count or 0) if ratio is None else ratio * float(np.nanmean(visual))
            if budget.per != "tile" and np.nanmean(measured) > SLACK * allowed:
                found.add(index)
    return found


def _competing(rows: Sequence[ArmRow], budget: str, value: Floats, left_out: Set[int]) -> list[int]:
    return [
        i
        for i, row in enumerate(rows)
        if row.budget == budget and i not in left_out and not np.isnan(value[i])
    ]


def best_rows(
    rows: Sequence[ArmRow], value: Floats, resampled: Floats, left_out: Set[int] = frozenset()
) -> set[int]:
    """Rows to print bold: better than every other row of the same budget, each paired 95 % interval above 0.

    All of the differences must be significant, so no correction for their number is needed.

    Args:
        rows: the R rows of the table.
        value: what is compared [R].
        resampled: the same under each bootstrap draw [B, R].
        left_out: rows that do not compete, see `above_budget`.
    """
    found = set()
    for budget in {row.budget for row in rows if row.budget is not None}:
        group = _competing(rows, budget, value, left_out)
        if len(group) < 2:
            continue
        best = max(group, key=lambda i: value[i])
        differences = [resampled[:, best] - resampled[:, other] for other in group if other != best]
        if all(percentile_interval(difference).low > 0 for difference in differences):
            found.add(best)
    return found


def compare(
    rows: Sequence[ArmRow],
    samples: Sequence[TaskSamples],
    shares: Floats | None,
    value: Floats,
    left_out: Set[int] = frozenset(),
) -> pd.DataFrame:
    """Each row against the best one of its budget: difference of the retained averages, in percentage points.

    Args:
        rows: the R rows of the table.
        samples: the aligned questions of each task, for the sign test.
        shares: retained average under each draw [B, R], or None where there is no `full` arm.
        value: retained average as recorded [R].
        left_out: rows that do not compete, see `above_budget`.
    """
    lines = []
    budgets = dict.fromkeys(row.budget for row in rows if row.budget is not None)
    for budget in budgets if shares is not None else ():
        assert shares is not None  # the loop is empty otherwise
        group = _competing(rows, budget, value, left_out)
        if len(group) < 2:
            continue
        best = max(group, key=lambda i: value[i])
        for other in group:
            if other == best:
                continue
            difference = shares[:, best] - shares[:, other]
            interval = percentile_interval(difference)
            # Draws without a value are few, else the interval is nan already.
            detectable = minimum_detectable_difference(float(np.nanstd(difference, ddof=1)))
            line = (rows[best].label, rows[other].label, value[best] - value[other])
            numbers = (interval.low, interval.high, interval.excludes(0.0), detectable)
            test = _sign_test(rows[best], rows[other], samples)
            lines.append((*line, *numbers, *test))
    return pd.DataFrame(lines, columns=[*COLUMNS, *SIGN_TEST])


def _sign_test(
    first: ArmRow, second: ArmRow, samples: Sequence[TaskSamples]
) -> tuple[int | None, int | None, float | None]:
    """Over all questions scored right or wrong; none for rows that average several seeds."""
    if len(first.members) > 1 or len(second.members) > 1:
        return None, None, None
    pairs = []
    for task in samples:
        if first.members[0] not in task.arm_ids or second.members[0] not in task.arm_ids:
            continue
        both = task.scores[:, [task.arm_ids.index(row.members[0]) for row in (first, second)]]
        if np.isin(both, (0.0, 1.0)).all():
            pairs.append(both)
    if not pairs:
        return None, None, None
    answers = np.concatenate(pairs)
    test = mcnemar(answers[:, 0], answers[:, 1])
    return test.first, test.second, test.p_value

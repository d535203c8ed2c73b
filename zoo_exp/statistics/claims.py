"""Claims of an experiment: pairs of rows whose paired difference decides, at every budget, whether a claim holds."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.comparisons import Contest
from zoo_exp.statistics.intervals import CONFIDENCE, holm

COLUMNS = (
    *("claim", "budget", "arm", "against", "retained", "retained_against"),
    *("difference", "low", "high", "p_value", "p_holm", "holds"),
)
HOLDS, REVERSED, OPEN = "yes", "no: reversed", "not shown"
"""What the data say about a claim: its row is better, the other row is better, or neither can be told."""


def decide(
    claims: Sequence[Mapping[str, Any]], rows: Sequence[ArmRow], contest: Contest, left_out: Set[int]
) -> pd.DataFrame:
    """Test every claim at every budget that both of its rows have.

    A claim holds where the paired 95 % interval of the difference is above 0 and the exact test is significant after
    Holm's correction over all claims and budgets; it is reversed where the same is true of the other row.

    Args:
        claims: mappings with `claim`, `arm` and `against`, rows without their budget.
        rows: the R rows of the table.
        contest: the retained averages.
        left_out: rows that keep more tokens than their budget, see `comparisons.above_budget`.

    Returns:
        Rows with `COLUMNS`: retained averages in percent, differences in percentage points.
    """
    places = {(_plain(row), row.budget): number for number, row in enumerate(rows)}
    budgets = dict.fromkeys(row.budget for row in rows if row.budget is not None)
    pairs = [
        (str(claim["claim"]), budget, places[claim["arm"], budget], places[claim["against"], budget])
        for claim in claims
        for budget in budgets
        if (claim["arm"], budget) in places and (claim["against"], budget) in places
    ]
    pairs = [
        pair
        for pair in pairs
        if not left_out & {*pair[2:]} and not np.isnan(contest.value[[*pair[2:]]]).any()
    ]
    tests = [contest.test(rows[one], rows[other]) for _, _, one, other in pairs]
    adjusted = holm([1.0 if test is None else test.p_value for test in tests])
    lines = []
    for (claim, budget, one, other), test, p_holm in zip(pairs, tests, adjusted, strict=True):
        interval = contest.interval(one, other)
        significant = interval.excludes(0.0) and p_holm < 1 - CONFIDENCE
        holds = OPEN if not significant else HOLDS if interval.low > 0 else REVERSED
        values = contest.value[one], contest.value[other]
        lines.append(
            (
                *(claim, budget, rows[one].label, rows[other].label, *values, values[0] - values[1]),
                *(interval.low, interval.high, None if test is None else test.p_value, p_holm, holds),
            )
        )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _plain(row: ArmRow) -> str:
    """The row's name without its budget."""
    return row.row.removesuffix(f" @{row.budget}")

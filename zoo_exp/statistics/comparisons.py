"""Paired comparisons between table rows, and the selection of rows to print in bold."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import percentile_interval
from zoo_exp.statistics.estimates import TaskEstimate
from zoo_exp.statistics.intervals import (
    CONFIDENCE,
    Floats,
    Interval,
    SignTest,
    holm,
    minimum_detectable_difference,
    sign_test,
    twice_median,
)

COLUMNS = (
    *("arm", "against", "difference", "low", "high", "significant", "detectable"),
    *("only_arm_right", "only_against_right", "p_value", "p_holm"),
)
SLACK = 1.05
"""Maximum ratio of measured tokens to the budget for rows that take part in comparisons."""


def above_budget(rows: Sequence[ArmRow], samples: Sequence[TaskSamples]) -> set[int]:
    """Rows that kept more visual tokens than their budget allows, which would make a comparison unfair.

    This mostly concerns layer selectors, whose first layers see every token. Rows with a budget per tile (no fixed
    number per image) or without a budget are never excluded.
    """
    found = set()
    for index, row in enumerate(rows):
        kept = [task.measured(task.columns(row.members)).ravel() for task in samples]
        measured = np.concatenate(kept) if kept else np.empty(0)
        visual = np.concatenate([task.n_visual for task in samples]) if samples else np.empty(0)
        if row.budget is None or np.isnan(measured).all() or np.isnan(visual).all():
            continue
        with suppress(InvalidValueError):
            budget = Budget.parse(row.budget)
            ratio = budget.keep_ratio
            allowed = float(budget.count or 0) if ratio is None else ratio * float(np.nanmean(visual))
            if budget.per != "tile" and np.nanmean(measured) > SLACK * allowed:
                found.add(index)
    return found


class ArmScores(Mapping[str, Floats]):
    """Arm id -> scores, which are computed when they are asked for.

    Args:
        arm_ids: the arms.
        scores: function from the number of an arm to its scores.
    """

    def __init__(self, arm_ids: Sequence[str], scores: Callable[[int], Floats]) -> None:
        self._places = {arm: place for place, arm in enumerate(arm_ids)}
        self._scores = scores

    def __getitem__(self, arm: str) -> Floats:
        return self._scores(self._places[arm])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Contest:
    """The quantity by which rows are compared, with its bootstrap draws and the unit scores behind it.

    Attributes:
        value: value of each row [R].
        resampled: value under each bootstrap draw [B, R].
        images: number of resampled images.
        scores: for each task, arm id -> score of each unit under that arm [U], for the exact test.
    """

    value: Floats
    resampled: Floats
    images: int
    scores: Sequence[Mapping[str, Floats]]

    def interval(self, first: int, second: int) -> Interval:
        """Paired 95 % interval of the difference between two rows."""
        return percentile_interval(self.resampled[:, first] - self.resampled[:, second], self.images)

    def test(self, first: ArmRow, second: ArmRow) -> SignTest | None:
        """Exact sign test of two rows over the units of all tasks that have both; None if there are none.

        Rows with several seeds are tested once per seed; the p value is twice the median of the p values, and the
        counts are rounded means over the seeds.
        """
        both = [own for own in self.scores if {*first.members, *second.members} <= set(own)]
        if not both:
            return None
        tests = [
            sign_test(np.concatenate([own[a] for own in both]), np.concatenate([own[b] for own in both]))
            for a, b in product(first.members, second.members)
        ]
        first_higher, second_higher = (
            round(sum(counts) / len(tests))
            for counts in zip(*((test.first, test.second) for test in tests), strict=True)
        )
        return SignTest(first_higher, second_higher, twice_median([test.p_value for test in tests]))


@dataclass(frozen=True)
class Rival:
    """Comparison of the best row of a budget with another row.

    Attributes:
        best: number of the best row.
        other: number of the other row.
        interval: paired 95 % interval of best minus other.
        test: exact sign test; None if no task has units of both rows.
        p_holm: p value after Holm's correction over all comparisons at this budget.
    """

    best: int
    other: int
    interval: Interval
    test: SignTest | None
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0 and the corrected exact test is significant, too."""
        return self.interval.excludes(0.0) and self.p_holm < 1 - CONFIDENCE


def rivals(
    rows: Sequence[ArmRow], contest: Contest, left_out: Set[int], focus: Sequence[int] | None = None
) -> list[list[Rival]]:
    """Compare the best row of each budget, or a given one, with every other row at this budget.

    Budgets with fewer than two rows to compare are skipped.

    Args:
        rows: the R rows of the table.
        contest: the quantity that is compared.
        left_out: rows that are excluded, see `above_budget`.
        focus: rows that take the place of the best ones; other budgets are skipped. None compares the best ones.
    """
    found = []
    for budget in dict.fromkeys(row.budget for row in rows if row.budget is not None):
        group = [
            i
            for i, row in enumerate(rows)
            if row.budget == budget and i not in left_out and not np.isnan(contest.value[i])
        ]
        if len(group) < 2:
            continue
        if focus is not None and not set(group) & set(focus):
            continue
        candidates = group if focus is None else [i for i in group if i in focus]
        best = max(candidates, key=lambda i: contest.value[i])
        others = [other for other in group if other != best]
        tests = [contest.test(rows[best], rows[other]) for other in others]
        adjusted = holm([1.0 if test is None else test.p_value for test in tests])
        found.append(
            [
                Rival(best, other, contest.interval(best, other), test, p)
                for other, test, p in zip(others, tests, adjusted, strict=True)
            ]
        )
    return found


def best_rows(rows: Sequence[ArmRow], contest: Contest, left_out: Set[int]) -> set[int]:
    """Rows to print in bold: significantly better than every other row at the same budget (`Rival.significant`)."""
    return {
        group[0].best
        for group in rivals(rows, contest, left_out)
        if all(rival.significant and rival.interval.low > 0 for rival in group)
    }


def compare(
    rows: Sequence[ArmRow], contest: Contest, left_out: Set[int], focus: Sequence[int] | None = None
) -> pd.DataFrame:
    """Compare each row with the best row of its budget: difference of retained averages, in percentage points.

    Args:
        rows: the R rows of the table.
        contest: the retained averages.
        left_out: rows that are excluded, see `above_budget`.
        focus: see `rivals`.

    Returns:
        Rows with `COLUMNS`. `only_arm_right` counts the units on which the best arm scored higher.
    """
    lines = []
    for rival in (rival for group in rivals(rows, contest, left_out, focus) for rival in group):
        best, other, test = rival.best, rival.other, rival.test
        # At most 1 % of the draws have no value, otherwise the interval is nan.
        error = float(np.nanstd(contest.resampled[:, best] - contest.resampled[:, other], ddof=1))
        lines.append(
            (
                *(rows[best].label, rows[other].label, contest.value[best] - contest.value[other]),
                *(rival.interval.low, rival.interval.high, rival.significant),
                minimum_detectable_difference(error),
                *((None, None, None, None) if test is None else (test.first, test.second, test.p_value)),
                *(() if test is None else (rival.p_holm,)),
            )
        )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def task_contest(task: TaskEstimate) -> Contest:
    """The main metric of one task."""
    return Contest(task.value, task.resampled, task.samples.images, [_unit_scores(task)])


def average_contest(tasks: Sequence[TaskEstimate], value: Floats, resampled: Floats, images: int) -> Contest:
    """The retained average over tasks."""
    return Contest(value, resampled, images, [_unit_scores(task) for task in tasks])


def _unit_scores(task: TaskEstimate) -> "ArmScores":
    return ArmScores(task.samples.arm_ids, task.tallied.unit_scores)

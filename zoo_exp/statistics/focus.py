"""The arm that a report is about: its rows by name, and the questions on which it succeeds or fails.

An arm succeeds on a question where it is correct and strictly more than half of the other arms of its budget are wrong;
it fails where it is wrong and strictly more than half of them are correct. Seeds of an arm count together: the arm is
correct where the mean of their scores is. Other arms of the same selector are no judges, as they share its weaknesses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from zoo_exp.errors import UnknownNameError
from zoo_exp.statistics.arm_rows import ArmRow

CORRECT = 0.5
"""Responses with at least this score count as correct."""
SUCCESS, FAILURE = "success", "failure"
COLUMNS = (
    *("task", "sample_id", "question", "reference", "kind", "response", "others_correct", "others"),
    *("full_correct", "full_response"),
)


@dataclass(frozen=True)
class Judges:
    """An arm with those that decide whether a question is a success or a failure of it.

    Attributes:
        focus: the arm.
        others: the arms of its budget with another selector.
        full: the arm that keeps every token, if there is one.
    """

    focus: ArmRow
    others: tuple[ArmRow, ...]
    full: ArmRow | None = None

    @classmethod
    def of(cls, rows: Sequence[ArmRow], focus: ArmRow) -> "Judges":
        """The judges among the rows of a table."""
        others = tuple(
            row
            for row in rows
            if row.budget == focus.budget and row.selector not in (focus.selector, "blind")
        )
        full = next((row for row in rows if row.selector == "full"), None)
        return cls(focus, tuple(row for row in others if row is not full), full)

    def judge(self, scores: Mapping[str, float]) -> tuple[str, int, int]:
        """Whether a question is a success or a failure of the focus, and how many of how many others are correct.

        Args:
            scores: label of each arm (with its seed) -> score; arms without a score do not count.
        """
        mine = row_correct(scores, self.focus)
        known = [right for row in self.others if (right := row_correct(scores, row)) is not None]
        if mine is None or not known:
            return "", 0, 0
        number = sum(known)
        if mine and 2 * number < len(known):
            return SUCCESS, number, len(known)
        if not mine and 2 * number > len(known):
            return FAILURE, number, len(known)
        return "", number, len(known)


def row_correct(scores: Mapping[str, float], row: ArmRow) -> bool | None:
    """Whether an arm is correct: the mean score of its seeds reaches `CORRECT`; None where a score is missing."""
    values = [scores.get(name, math.nan) for name in row.names]
    mean = sum(values) / len(values)
    return None if math.isnan(mean) else mean >= CORRECT


def default_focus(rows: Sequence[ArmRow]) -> ArmRow | None:
    """ZOO's row with multiplied fusion and no other option, at the smallest budget (the last in the table)."""
    default = [
        row for row in rows if row.selector == "zoo" and row.options in ("{}", '{"fusion": "multiply"}')
    ]
    return default[-1] if default else None


def focus_rows(rows: Sequence[ArmRow], name: str) -> list[ArmRow]:
    """The rows of a name: one by its label with the budget, or all budgets by the label without it, or the selector.

    Raises:
        UnknownNameError: no row has this name.
    """
    wanted = " ".join(name.split())
    tests = (
        lambda row: wanted in (row.row, row.label),
        lambda row: row.row.rpartition(" @")[0] == wanted,
        lambda row: row.selector == wanted or f"{row.selector} @{row.budget}" == wanted,
    )
    for test in tests:
        found = [row for row in rows if row.budget is not None and test(row)]
        if found:
            return found
    known = {row.row for row in rows if row.budget is not None}
    raise UnknownNameError("arm with a budget", name, known, "Give a label, with or without its budget.")


def outcomes(records: pd.DataFrame, judges: Judges) -> pd.DataFrame:
    """The successes and failures of an arm among all recorded questions.

    Args:
        records: from `reading.read_records`.
        judges: the arm and the others.

    Returns:
        Rows with `COLUMNS`: successes first, those that the fewest others answer correctly first; then failures, those
        of which the most others and the full model are correct first.
    """
    rows = [judges.focus, *judges.others, *([judges.full] if judges.full is not None else [])]
    ids = {member for row in rows for member in row.members}
    mine = records[records["arm_id"].isin(ids) & records["score"].notna()]
    if mine.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    scores = mine.pivot_table(index=["task", "sample_id"], columns="arm", values="score", sort=False)
    first = records[records["arm_id"] == judges.focus.members[0]].set_index(["task", "sample_id"])
    full = None if judges.full is None else records[records["arm_id"] == judges.full.members[0]]
    said = (
        {}
        if full is None
        else dict(zip(zip(full["task"], full["sample_id"], strict=True), full["response"], strict=True))
    )
    lines = []
    labels = list(scores.columns)
    for (task, sample), values in zip(scores.index, scores.to_numpy(), strict=True):
        own = dict(zip(labels, values.tolist(), strict=True))
        kind, number, count = judges.judge(own)
        if not kind:
            continue
        whole = None if judges.full is None else row_correct(own, judges.full)
        lines.append((task, sample, kind, number, count, whole, said.get((task, sample))))
    names = ["task", "sample_id", "kind", "others_correct", "others", "full_correct", "full_response"]
    table = pd.DataFrame(lines, columns=names).join(
        first[["question", "reference", "response"]], on=["task", "sample_id"]
    )
    share = table["others_correct"] / table["others"]
    order = pd.DataFrame(
        {
            "kind": table["kind"] == FAILURE,
            "share": share.where(table["kind"] == SUCCESS, -share),
            "full": table["full_correct"] != True,  # noqa: E712 - None, if there is no full model
        }
    ).sort_values(["kind", "share", "full"], kind="stable")
    return table.loc[order.index, list(COLUMNS)].reset_index(drop=True)

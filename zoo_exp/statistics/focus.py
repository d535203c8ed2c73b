"""The arm that a report is about: its rows by name, and the questions on which it succeeds or fails.

An arm succeeds on a question where it is correct and strictly more than half of the other arms of its budget are wrong;
it fails where it is wrong and strictly more than half of them are correct. Seeds of an arm count together: the arm is
correct where the mean of their scores is. Other arms of the same selector are no judges, as they share its weaknesses.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.errors import UnknownNameError
from zoo_exp.runs.run_answers import Answers, TaskAnswers
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.intervals import Floats

CORRECT = 0.5
"""Responses with at least this score count as correct."""
NEVER = np.iinfo(np.int64).max
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


def outcomes(answers: Answers, tasks: Sequence[str], judges: Judges) -> pd.DataFrame:
    """The successes and failures of an arm among all recorded questions.

    Args:
        answers: from `run_answers.read_answers`.
        tasks: names of the tasks that count.
        judges: the arm and the others.

    Returns:
        Rows with `COLUMNS`: successes first, those that the fewest others answer correctly first; then failures, those
        of which the most others and the full model are correct first.
    """
    found: list[_Judged] = []
    seen: dict[str, int] = {}
    begun: dict[str, int] = {}
    for task in (answers.tasks[name] for name in tasks if name in answers.tasks):
        places, scores = _scores(task, judges)
        begun[task.name] = int(places.min(initial=NEVER))
        found += _judged(task, scores, np.flatnonzero(places < NEVER), judges)
        for sample, place in zip(task.sample_ids, places.tolist(), strict=True):
            seen[sample] = min(place, seen.get(sample, NEVER))
    # Equal ones in the order of the records; an id that several tasks have counts where it was read first.
    found.sort(key=lambda one: (begun[one.task], seen[answers.tasks[one.task].sample_ids[one.sample]]))
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    share = np.array([one.correct / one.others for one in found])
    success = np.array([one.kind == SUCCESS for one in found])
    lacks_full = np.array([one.full_correct is not True for one in found])
    order = np.lexsort((lacks_full, np.where(success, share, -share), ~success))
    return pd.DataFrame([_line(answers, found[number], judges) for number in order], columns=list(COLUMNS))


class _Judged(NamedTuple):
    """A success or a failure."""

    task: str
    sample: int
    kind: str
    correct: int
    others: int
    full_correct: bool | None


def _scores(task: TaskAnswers, judges: Judges) -> tuple[NDArray[np.int64], dict[str, Floats]]:
    """Where the first scored record of each question was read (or `NEVER`), and label -> scores, nan if missing."""
    rows = [judges.focus, *judges.others, *([judges.full] if judges.full is not None else [])]
    ids = {member for row in rows for member in row.members}
    places = np.full(len(task.sample_ids), NEVER)
    sums: dict[str, Floats] = {}
    counts: dict[str, NDArray[np.int32]] = {}
    for arm in (own for identity, own in task.arms.items() if identity in ids):
        known = ~np.isnan(arm.values("score"))
        samples = arm.values("sample")[known]
        sums.setdefault(arm.label, np.zeros(len(places)))[samples] += arm.values("score")[known]
        counts.setdefault(arm.label, np.zeros(len(places), np.int32))[samples] += 1
        places[samples] = np.minimum(places[samples], arm.values("place")[known])
    for label, count in counts.items():
        with np.errstate(invalid="ignore"):
            sums[label] /= count
    return places, sums


def _judged(
    task: TaskAnswers, scores: Mapping[str, Floats], questions: NDArray[np.int64], judges: Judges
) -> Iterator[_Judged]:
    for number in questions.tolist():
        own = {label: float(values[number]) for label, values in scores.items()}
        kind, correct, others = judges.judge(own)
        if kind:
            whole = None if judges.full is None else row_correct(own, judges.full)
            yield _Judged(task.name, number, kind, correct, others, whole)


def _line(answers: Answers, found: _Judged, judges: Judges) -> tuple[Any, ...]:
    """A row with `COLUMNS`, with the texts of the records."""
    task = answers.tasks[found.task]
    mine = task.record(judges.focus.members[0], found.sample) or {}
    full = {} if judges.full is None else task.record(judges.full.members[0], found.sample) or {}
    return (
        *(found.task, task.sample_ids[found.sample], mine.get("question"), mine.get("reference"), found.kind),
        *(mine.get("response"), found.correct, found.others, found.full_correct, full.get("response")),
    )

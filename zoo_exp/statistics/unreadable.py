"""Responses that a scorer cannot read: yes/no questions answered with neither, options without a letter."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zoo_exp.runs.packed import Numbers
from zoo_exp.statistics.alignment import Aligned
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.estimates import TaskEstimate
from zoo_exp.tasks.base import UNREADABLE

COLUMNS = ("task", "arm", "share", "form")
MANY = 0.05
"""Share from which on a note names an arm."""
MOST_NAMED = 3


def unreadable(rows: Sequence[ArmRow], tasks: Sequence[TaskEstimate]) -> pd.DataFrame:
    """Share of unreadable responses by task and arm.

    Args:
        rows: the R rows of the table.
        tasks: the estimates of each task.

    Returns:
        Rows with `COLUMNS`, for tasks with an `answer_form`, which is `form`; `share` is 0 to 1, over the questions of
        all seeds of an arm. Rows with missing seeds are excluded. Records of earlier versions are not marked, so that
        their shares are 0.
    """
    lines = []
    for task in tasks:
        if not task.task.answer_form:
            continue
        for row in rows:
            members = task.samples.columns(row.members)
            if len(members) == len(row.members):
                share = float(np.mean([_flagged(task.samples.rows[arm]).mean() for arm in members]))
                lines.append((task.task.name, row.label, share, task.task.answer_form))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def notes(table: pd.DataFrame) -> list[str]:
    """A note for each task with many unreadable responses, which names the arms with most of them.

    Args:
        table: from `unreadable`.
    """
    told = []
    for (task, form), part in table[table["share"] >= MANY].groupby(["task", "form"], sort=False):
        worst = part.sort_values("share", ascending=False, kind="stable")
        named = [f"{100 * line.share:.0f} % of {line.arm}" for line in worst.head(MOST_NAMED).itertuples()]
        more = len(worst) - len(named)
        told.append(
            f"{task}: responses without {form}: {', '.join(named)}"
            f"{f' and {more} more arms' if more > 1 else ' and 1 more arm' if more else ''}; "
            "they score as wrong or guessed, so these rows say less about what the model sees"
        )
    return told


def _flagged(answers: Aligned) -> Numbers:
    """Whether each response is unreadable [n]."""
    kept: Numbers = np.array([bool(parts.get(UNREADABLE)) for parts in answers.arm.store.parts], bool)
    codes = answers.values("parts")
    if (codes < 0).any():  # too many different parts to keep
        return np.array([bool(row.get(UNREADABLE)) for row in answers], bool)
    flagged: Numbers = kept[codes]
    return flagged

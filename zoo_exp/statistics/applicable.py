"""Questions that an arm could not answer: which arms and questions take part in a task's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from zoo_exp.runs.records import NOT_APPLICABLE
from zoo_exp.statistics.arm_rows import ArmRow


@dataclass(frozen=True)
class Applicable:
    """The records that numbers are made of.

    Attributes:
        records: without those that are not applicable.
        left_out: (task, arm id) of arms that have no number in a task, because images of it are not applicable to them.
        notes: one sentence for each reason.
    """

    records: pd.DataFrame
    left_out: frozenset[tuple[str, str]] = frozenset()
    notes: list[str] = field(default_factory=list)


def applicable(records: pd.DataFrame, rows: Sequence[ArmRow]) -> Applicable:
    """Leave out questions that no arm could answer, and of each task the arms that could not answer some of the others.

    An arm without some of the questions has no number in that task: a metric over other questions than those of the
    other arms would not compare, and leaving its questions out of every arm would change their numbers.

    Args:
        records: from `reading.read_records`.
        rows: the rows of the table.
    """
    if NOT_APPLICABLE not in records or not records[NOT_APPLICABLE].notna().any():
        return Applicable(records)
    missing = records[records[NOT_APPLICABLE].notna()]
    labels = {member: row.label for row in rows for member in row.members}
    notes: list[str] = []
    left_out: set[tuple[str, str]] = set()
    drop = pd.Series(False, index=records.index)
    for task, mine in missing.groupby("task", sort=False):
        whole = records[records["task"] == task]
        by_arm = mine.groupby("sample_id")["arm_id"].nunique()
        nobody = set(by_arm.index[by_arm == whole["arm_id"].nunique()])
        questions = whole["sample_id"].nunique()
        if nobody:
            why = mine.loc[mine["sample_id"].isin(nobody), NOT_APPLICABLE].iloc[0]
            notes.append(f"{task}: {len(nobody)} of {questions} questions not applicable to any arm: {why}")
        others = mine[~mine["sample_id"].isin(nobody)]
        for arm, own in others.groupby("arm_id", sort=False):
            left_out.add((str(task), str(arm)))
            notes.append(
                f"{task}: {labels.get(str(arm), str(arm))} not applicable to {own['sample_id'].nunique()} of "
                f"{questions} questions, so that it has no number: {own[NOT_APPLICABLE].iloc[0]}"
            )
        drop |= (records["task"] == task) & (
            records["sample_id"].isin(nobody) | records["arm_id"].isin(set(others["arm_id"]))
        )
    return Applicable(records[~drop], frozenset(left_out), notes)

"""Secondary metrics, and metrics of groups of questions, for every arm."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.estimates import TaskEstimate
from zoo_exp.tasks.base import Task

COLUMNS = ("task", "group", "metric", "arm", "value", "unit")


def details(rows: Sequence[ArmRow], tasks: Sequence[TaskEstimate]) -> pd.DataFrame:
    """Secondary metrics of the tasks, such as POPE's precision, recall and yes-rate, or VQAv2's answer types.

    Args:
        rows: the R rows of the table.
        tasks: the estimates of each task.

    Returns:
        Rows with `COLUMNS`, one per number. `group` is the name of a group of questions (a category, an answer type),
        or empty for all questions of the task; `value` is averaged over the seeds of an arm; `unit` is fraction (0 to
        1), percent, points, or answers (a count). Rows with missing seeds are excluded.
    """
    lines = []
    for task in tasks:
        by_arm = [_of_arm(task.samples, arm) for arm in range(len(task.samples.arm_ids))]
        for group, metric in by_arm[0]:
            unit = task.task.detail_scale(metric).unit
            for row in rows:
                members = task.samples.columns(row.members)
                values = [by_arm[arm].get((group, metric)) for arm in members]
                known = [value for value in values if value is not None]
                if len(known) == len(row.members):
                    lines.append((task.task.name, group, metric, row.label, float(np.mean(known)), unit))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _of_arm(samples: TaskSamples, arm: int) -> dict[tuple[str, str], float]:
    """(group, metric) -> value of one arm."""
    kind = type(samples.task)
    if kind.details is Task.details and kind.breakdown is Task.breakdown:
        return {}
    rows = list(samples.rows[arm])  # those of one arm at a time
    groups = {"": samples.task.details(rows), **samples.task.breakdown(rows)}
    return {(group, metric): value for group, own in groups.items() for metric, value in own.items()}

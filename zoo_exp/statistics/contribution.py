"""Image contribution of each task: the full model compared with the blind one, with paired intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import percentile_interval
from zoo_exp.statistics.estimates import TaskEstimate
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.intervals import Floats

HIGH = 0.5
"""Minimum relative contribution of tasks that need the image (MMTok, Table 4: between TextVQA .40 and GQA .64)."""
COLUMNS = (
    *("task", "full", "blind", "difference", "low", "high", "significant"),
    *("relative", "relative_low", "relative_high"),
)


@dataclass(frozen=True)
class Contribution:
    """Image contribution.

    Attributes:
        table: for each task, the metric of full and blind, their difference (in the metric's unit) and the relative
            contribution (full - blind) / blind, each with its 95 % interval; inf if blind is 0.
        needing: tasks with a relative contribution of at least `HIGH`.
        retained: arm -> mean retained percentage over `needing`; nan if a value is missing.
    """

    table: pd.DataFrame
    needing: list[str]
    retained: dict[str, float]


def contributions(rows: Sequence[ArmRow], tasks: Sequence[TaskEstimate]) -> pd.DataFrame:
    """Compute the image contribution of each task, with paired bootstrap intervals.

    Args:
        rows: the R rows of the table.
        tasks: the estimates of each task.

    Returns:
        Rows with `COLUMNS`; empty without both a full and a blind arm.
    """
    full, blind = (
        next((i for i, row in enumerate(rows) if row.selector == n), None) for n in ("full", "blind")
    )
    lines = []
    for task in tasks if full is not None and blind is not None else ():
        value = float(task.value[full]), float(task.value[blind])
        if any(map(math.isnan, value)):
            continue
        drawn = task.resampled[:, full], task.resampled[:, blind]
        difference = percentile_interval(drawn[0] - drawn[1], task.samples.images)
        relative = percentile_interval(_relative(*drawn), task.samples.images)
        line = [task.task.name, *value, value[0] - value[1], difference.low, difference.high]
        line += [
            difference.excludes(0.0),
            float(_relative(*map(np.asarray, value))),
            relative.low,
            relative.high,
        ]
        lines.append(line)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def contribution(frame: pd.DataFrame, table: pd.DataFrame) -> Contribution | None:
    """Tasks that need the image, and the retained average of every arm over these; None if `table` is empty.

    Args:
        frame: `Results.frame`.
        table: from `contributions`.
    """
    if table.empty:
        return None
    needing = [str(task) for task in table.loc[table["relative"] >= HIGH, "task"]]
    mine = frame[frame["task"].isin(needing) & (frame["task"] != AVERAGE)]
    retained = {
        str(arm): float(part["retained"].mean(skipna=False)) for arm, part in mine.groupby("arm", sort=False)
    }
    return Contribution(table, needing, retained)


def _relative(full: Floats, blind: Floats) -> Floats:
    """(full - blind) / blind; inf if only blind is 0, nan if both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((full - blind) / blind)

"""How much of each task needs the image at all: the full model against the blind one."""

import math
from dataclasses import dataclass

import pandas as pd

from zoo_exp.report.frame import AVERAGE

HIGH = 0.5
"""Tasks at or above it need the image (MMTok's Table 4 draws its line between TextVQA .40 and GQA .64)."""


@dataclass(frozen=True)
class Contribution:
    """Image contribution.

    Attributes:
        by_task: (full - blind) / blind, inf where blind is 0.
        needing: tasks at or above `HIGH`.
        retained: arm -> mean retained percentage over `needing`; nan where a value is missing.
    """

    by_task: dict[str, float]
    needing: list[str]
    retained: dict[str, float]


def contribution(frame: pd.DataFrame) -> Contribution | None:
    """From `Results.frame`; None without both a full and a blind arm."""
    tasks = frame[frame["task"] != AVERAGE]
    full = tasks[tasks["selector"] == "full"].set_index("task")["value"]
    blind = tasks[tasks["selector"] == "blind"].set_index("task")["value"]
    if full.empty or blind.empty:
        return None
    by_task = {
        str(task): (full[task] - blind[task]) / blind[task] if blind[task] > 0 else math.inf
        for task in full.index
        if task in blind.index and not math.isnan(full[task]) and not math.isnan(blind[task])
    }
    needing = [task for task, value in by_task.items() if value >= HIGH]
    mine = tasks[tasks["task"].isin(needing)]
    retained = {
        str(arm): float(part["retained"].mean(skipna=False)) for arm, part in mine.groupby("arm", sort=False)
    }
    return Contribution(by_task, needing, retained)

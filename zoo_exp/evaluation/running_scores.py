"""Scores of every arm while a run is in progress, and over all ranks at its end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo_exp.config.experiment import Arm
from zoo_exp.evaluation import launch
from zoo_exp.evaluation.work import Work
from zoo_exp.runs import reading
from zoo_exp.runs.records import Record
from zoo_exp.tasks.metric import TaskMetric, Units

TOGETHER = 1000
"""Earlier records that enter a metric in one update, which takes longer than reading a record."""


class RunningScores:
    """One `TaskMetric` per cell and arm."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, TaskMetric]] = {}
        self.work: Work | None = None

    def begin(self, work: Work, earlier: Path | None) -> None:
        """Start a cell.

        Args:
            work: the cell.
            earlier: the run folder whose records count too; None on all ranks but one.
        """
        self.work, cell = work, work.cell.id
        units = Units.counted(work.ids, work.rows.units(work.task))
        metrics = {arm.id: TaskMetric(work.task, units, sync_on_compute=False) for arm in work.cell.arms}
        self._metrics[cell] = metrics
        if earlier is not None and any(work.done.values()):
            waiting: dict[str, dict[str, Any]] = {}
            for row in reading.records(earlier, [cell], damaged=[]):
                arm_id, sample = row["arm_id"], row["sample_id"]
                mine = row["cell"] == cell and arm_id in metrics and sample in work.done.get(arm_id, ())
                if mine and sample in units.of and row.get("not_applicable") is None:
                    known = waiting.setdefault(arm_id, {})
                    known[sample] = row["parts"]
                    if len(known) == TOGETHER:
                        metrics[arm_id].update(list(known), list(known.values()))
                        known.clear()
            for arm_id, known in waiting.items():
                metrics[arm_id].update(list(known), list(known.values()))

    def update(self, arm: Arm, records: Sequence[Record]) -> None:
        """Add records of an arm in the current cell."""
        assert self.work is not None
        metric = self._metrics[self.work.cell.id][arm.id]
        scored = [record for record in records if record.not_applicable is None]
        metric.update([record.sample_id for record in scored], [record.parts for record in scored])

    def value(self, arm: Arm) -> float | None:
        """The main metric of an arm in the current cell so far, on this rank; None before its first complete unit."""
        assert self.work is not None
        return self._metrics[self.work.cell.id][arm.id].running().get(self.work.task.main_metric)

    def values(self) -> dict[str, float]:
        """Arm label -> `value`, without the arms that have none yet."""
        found = {arm.label: self.value(arm) for arm in self.work.cell.arms} if self.work else {}
        return {label: value for label, value in found.items() if value is not None}

    def synced(self, left: Sequence[Work], device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
        """Task -> arm label -> metrics over the samples of all ranks; every rank must call this.

        A run does not: it takes its results from the records, and this gathers twice for every cell and arm.

        Args:
            left: the cells of the run, equal on all ranks.
            device: where the ranks communicate.

        Raises:
            Stopped: a signal arrived here or at another rank.
        """
        found: dict[str, dict[str, dict[str, float]]] = {}
        for work in left:
            metrics = self._metrics[work.cell.id]
            found[work.task.name] = {
                arm.label: metrics[arm.id].to(device).synced(launch.gather) for arm in work.cell.arms
            }
        return found

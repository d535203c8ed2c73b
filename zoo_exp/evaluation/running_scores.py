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
from zoo_exp.tasks.metric import TaskMetric


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
        if self.work is not None:
            for metric in self._metrics[self.work.cell.id].values():
                metric.compact()
        self.work, cell = work, work.cell.id
        metrics = {arm.id: TaskMetric(work.task, sync_on_compute=False) for arm in work.cell.arms}
        self._metrics[cell] = metrics
        if earlier is not None and any(work.done.values()):
            known: dict[str, dict[str, Any]] = {arm: {} for arm in metrics}
            for row in reading.records(earlier, [cell], damaged=[]):
                arm_id, sample = row["arm_id"], row["sample_id"]
                mine = row["cell"] == cell and arm_id in known and sample in work.done.get(arm_id, ())
                if mine and row.get("not_applicable") is None:
                    known[arm_id].setdefault(sample, row["parts"])
            for (
                arm_id,
                parts,
            ) in known.items():  # one update per arm: a tensor per record would take a kilobyte
                metrics[arm_id].update(list(parts), list(parts.values()))

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

"""`TaskMetric`: torchmetrics metric for any task, updated during evaluation and synchronised over ranks."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.base import Task


class TaskMetric(Metric):
    """`task.aggregate`, that is, `task.metrics` of the summed `task.tallies`, over the distinct samples of all ranks.

    The tally of a unit needs all of its samples (both questions of an MME image, all rotations of an MMBench question),
    which may be on different ranks. The state therefore contains the score parts of every sample as JSON lines in byte
    tensors, which are gathered with uneven lengths. Duplicate samples count once.

    Args:
        task: the task.
        **kwargs: of `torchmetrics.Metric`.
    """

    full_state_update = False
    lines: list[Tensor] | Tensor

    def __init__(self, task: Task, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task = task
        self.add_state("lines", default=[], dist_reduce_fx="cat")
        self._read: list[Tensor] = []
        self._best: dict[str, str] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def update(self, sample_ids: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> None:
        """Add the score parts of a batch.

        Args:
            sample_ids: one id per sample.
            parts: result of `task.score` for each sample.

        Raises:
            InvalidValueError: the two have different lengths.
        """
        if len(sample_ids) != len(parts):
            raise InvalidValueError(f"{len(sample_ids)} sample ids for {len(parts)} scores: give one each")
        rows = [{"sample_id": sample, **part} for sample, part in zip(sample_ids, parts, strict=True)]
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        assert isinstance(self.lines, list)
        if text:
            self.lines.append(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device))

    def rows(self) -> list[dict[str, Any]]:
        """One row per distinct sample id; of duplicates, the one whose JSON sorts first."""
        chunks = [self.lines] if isinstance(self.lines, Tensor) else self.lines
        same = len(self._read) <= len(chunks) and all(
            a is b for a, b in zip(self._read, chunks, strict=False)
        )
        if not same:
            self._read, self._best, self._rows = [], {}, {}
        for chunk in chunks[len(self._read) :]:
            for line in bytes(chunk.cpu().numpy().tobytes()).decode().splitlines():
                row = json.loads(line)
                name = row["sample_id"]
                if line < self._best.get(name, line + "\n"):
                    self._best[name], self._rows[name] = line, row
            self._read.append(chunk)
        return list(self._rows.values())

    def compute(self) -> dict[str, float]:
        """The task's metrics over the distinct samples.

        Raises:
            InvalidValueError: there are no samples, or no complete units.
        """
        return self.task.aggregate(self.rows())

    def running(self) -> dict[str, float]:
        """Current metrics over the complete units of this process; empty if there are none."""
        try:
            return self.task.aggregate(self.task.complete(self.rows()))
        except ZooExpError:
            return {}

    def synced(self, gather: Callable[..., list[Tensor]] | None = None) -> dict[str, float]:
        """Metrics over the complete units of all ranks, all of which must call this; empty if there are none.

        Args:
            gather: function from a tensor [n] to those of all ranks; None for the one of torchmetrics, during which a
                process does not notice signals.
        """
        if not self.lines:  # ranks without samples also take part in gathering
            self.lines = [torch.zeros(0, dtype=torch.uint8, device=self.device)]
        with self.sync_context(dist_sync_fn=gather):
            return self.running()

    def compact(self) -> None:
        """Reduce memory when no more updates are expected: keep one tensor and no parsed rows."""
        if isinstance(self.lines, list) and len(self.lines) > 1:
            self.lines = [dim_zero_cat(self.lines)]
        self._read, self._best, self._rows = [], {}, {}

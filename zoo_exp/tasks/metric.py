"""A torchmetrics metric of any task: equal on one process and on many, whatever is seen twice."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from zoo_exp.tasks.base import Task


class TaskMetric(Metric):
    """`task.aggregate` over the distinct samples that all processes saw together.

    The state is one JSON line per sample as bytes, because ranks can gather byte tensors of uneven length. A
    distributed sampler pads uneven shards with repeated samples; `compute` counts each sample id once.
    """

    full_state_update = False
    lines: list[Tensor] | Tensor

    def __init__(self, task: "Task", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task = task
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def update(self, sample_ids: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> None:
        """Take the score parts of a batch.

        Args:
            sample_ids: One id per sample.
            parts: What `task.score` returned for each.

        Raises:
            InvalidValueError: the two have different lengths.
        """
        if len(sample_ids) != len(parts):
            raise InvalidValueError(f"{len(sample_ids)} sample ids for {len(parts)} scores: give one each")
        for sample_id, part in zip(sample_ids, parts, strict=True):
            line = json.dumps({"sample_id": sample_id, **part}, sort_keys=True) + "\n"
            state = torch.frombuffer(bytearray(line.encode()), dtype=torch.uint8)
            assert isinstance(self.lines, list)
            self.lines.append(state.to(self.device))

    def rows(self) -> list[dict[str, Any]]:
        """One row per distinct sample id, in an order that does not depend on who saw it first."""
        if isinstance(self.lines, list) and not self.lines:
            return []
        text = bytes(dim_zero_cat(self.lines).cpu().numpy().tobytes()).decode()
        rows: dict[str, dict[str, Any]] = {}
        for line in sorted(text.splitlines()):
            row = json.loads(line)
            rows.setdefault(row["sample_id"], row)
        return list(rows.values())

    def compute(self) -> dict[str, float]:
        """The task's metrics over the distinct samples."""
        return self.task.aggregate(self.rows())

"""What the records of one cell say while they are being written, and once they are all there."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.errors import ZooExpError
from zoo_exp.files import read_lines
from zoo_exp.runs import folder as run_folder
from zoo_exp.runs import reading
from zoo_exp.runs.reading import MILLISECONDS
from zoo_exp.statistics.results import SUBMISSION
from zoo_exp.statistics.rows import ArmRow
from zoo_exp.tracking.session import plain_key

STEP = "answers"
Rows = dict[str, dict[str, dict[str, Any]]]
"""Arm id -> sample id -> record."""


class Tally:
    """What the rows of one cell say so far, by row of the table (the seeds of a random selector share one).

    Args:
        arms: the rows.
    """

    def __init__(self, arms: list[ArmRow]) -> None:
        self._arms = arms
        self._label = {member: arm.label for arm in arms for member in arm.members}
        self._by_name = {name: arm.label for arm in arms for name in arm.names}
        self._seen: set[tuple[str, str]] = set()
        self._values: dict[tuple[str, str], list[float]] = {}

    @property
    def answers(self) -> int:
        """Answers counted, each once."""
        return len(self._seen)

    def record(self, row: dict[str, Any]) -> None:
        """Count an answer; one that has been counted already changes nothing."""
        key = str(row.get("arm_id")), str(row.get("sample_id"))
        label = self._label.get(key[0])
        if label is None or key in self._seen:
            return
        self._seen.add(key)
        # A question without an image says nothing about visual tokens.
        kept, layers = (row["kept_tokens"], row.get("layer_tokens")) if row.get("n_visual") else (None, None)
        numbers = {"mean_score": row.get("score"), "kept_tokens": kept, "layer_tokens": layers}
        for name, value in (numbers | {"flops_tflop": row.get("flops_tflop")}).items():
            if value is not None and not math.isnan(value):
                self._values.setdefault((name, label), []).append(float(value))

    def timing(self, row: dict[str, Any]) -> None:
        """Count the times of one batch, as milliseconds per question."""
        label = self._by_name.get(str(row.get("arm")))
        for name in MILLISECONDS:
            if label is not None and row.get(name) is not None:
                self._values.setdefault((name, label), []).append(row[name] / row["batch_size"])

    def scalars(self) -> dict[str, float]:
        """`<quantity>/<arm>`: means over answers; of times the median over batches, as in the tables."""
        found: dict[str, float] = {STEP: self.answers}
        for (name, label), values in self._values.items():
            middle = median(values) if name in MILLISECONDS else fmean(values)
            found[f"{name}/{plain_key(label)}"] = middle
        return found


class Tail:
    """The rows of a cell that have come since the last look, from the journals of all ranks.

    Args:
        folder: the run folder.
        kind: records or timings.
        cell: id of the cell.
    """

    def __init__(self, folder: Path, kind: str, cell: str) -> None:
        self._folder, self._kind, self._cell = folder, kind, cell
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines that were not given before; the merged file of earlier attempts comes first."""
        if not self._read:
            merged = run_folder.merged(self._folder, self._kind)
            self._read[merged] = 0
            for line in read_lines(merged, dict, []):
                if line.row.get("cell", self._cell) == self._cell:
                    yield line.row
        for path in run_folder.journals(self._folder, self._kind, [self._cell]):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for text in whole.splitlines():
                with suppress(ValueError):
                    yield json.loads(text)


def whole_rows(folder: Path, cell: Cell) -> Rows:
    """Records of a cell, each answer once."""
    found: Rows = {arm.id: {} for arm in cell.arms}
    for row in reading.records(folder, [cell.id], damaged=[]):
        if row["cell"] == cell.id and row["arm_id"] in found:
            found[row["arm_id"]].setdefault(row["sample_id"], row)
    return found


def metrics_of(name: str, arms: list[ArmRow], rows: Rows) -> dict[tuple[str, str], float]:
    """(`task`, arm) -> the main metric and (`task METRIC`, arm) -> the others, averaged over the seeds of an arm."""
    from zoo_exp.tasks import get as get_task

    task = get_task(name)
    found: dict[tuple[str, str], float] = {}
    for arm in arms if task.main_metric != SUBMISSION else ():
        values: dict[str, list[float]] = {}
        for member in arm.members:
            mine = rows.get(member, {})
            parts = [{"sample_id": sample, **mine[sample]["parts"]} for sample in sorted(mine)]
            with suppress(ZooExpError):
                for metric, value in task.aggregate(parts).items():
                    values.setdefault(metric, []).append(float(value))
        for metric, numbers in values.items():
            key = plain_key(name if metric == task.main_metric else f"{name} {metric}")
            found[(key, arm.label)] = fmean(numbers)
    return found


def digest_of(rows: Rows) -> str:
    """Hash of what a cell's run shows in full."""
    digest = hashlib.sha256()
    for arm in sorted(rows):
        for sample in sorted(rows[arm]):
            digest.update(f"{arm}\0{sample}\0{rows[arm][sample].get('response')}\n".encode())
    return digest.hexdigest()

"""`TaskMetric`: torchmetrics metric for any task, updated during evaluation and synchronised over ranks."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.base import Task

FOLD = 2**16
"""Bytes of the state from which on it is packed."""
PACKED = '{"packed"'
Rows = dict[str, tuple[str, dict[str, Any]]]
"""Sample id -> a row as JSON and as a mapping."""


@dataclass(frozen=True)
class Units:
    """Which samples of a data set are scored together: the two questions of an MME image, the rotations of MMBench.

    Attributes:
        of: sample id -> number of its unit, from 0.
        sizes: number of samples by unit.
    """

    of: Mapping[str, int]
    sizes: Sequence[int]

    @classmethod
    def counted(cls, ids: Sequence[str], units: Sequence[object]) -> "Units":
        """From the id and the unit of every row of a data set."""
        numbers: dict[object, int] = {}
        of = {name: numbers.setdefault(unit, len(numbers)) for name, unit in zip(ids, units, strict=True)}
        sizes = Counter(of.values())
        return cls(of, array("i", [sizes[number] for number in range(len(numbers))]))


class TaskMetric(Metric):
    """`task.aggregate`, that is, `task.metrics` of the summed `task.tallies`, over the distinct samples of all ranks.

    The tally of a unit needs all of its samples, which may be on different ranks. Of a complete unit only its tally is
    kept: 4 bytes in memory, as a number in the list of the distinct tallies. The state contains the score parts of the
    other samples as JSON lines in byte tensors, which are gathered with uneven lengths, and now and then packed.
    Duplicate samples count once.

    Args:
        task: the task.
        units: the units of its data; None if every sample is one, or if they are not known: then all samples of a task
            with larger units are kept, and count as complete. So are those of a task that is not `separable`.
        **kwargs: of `torchmetrics.Metric`.
    """

    full_state_update = False
    lines: list[Tensor] | Tensor

    def __init__(self, task: Task, units: Units | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task, self.units = task, units if task.separable else None
        self.add_state("lines", default=[], dist_reduce_fx="cat")
        self._read: list[Tensor] = []
        self._sums = _Sums(task, self.units)

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
            self.lines.append(self._tensor(text))
            if sum(chunk.numel() for chunk in self.lines[1:]) > max(FOLD, self.lines[0].numel()):
                self.compact()

    def compute(self) -> dict[str, float]:
        """The task's metrics over the distinct samples.

        Raises:
            InvalidValueError: there are no samples, or no complete units.
        """
        return self._current().metrics(complete_only=False)

    def running(self) -> dict[str, float]:
        """Current metrics over the complete units of this process; empty if there are none."""
        try:
            return self._current().metrics(complete_only=True)
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
        """Pack the state: one line with the tallies of complete units, and the samples of the others."""
        sums = self._current()
        self.lines = [self._tensor(sums.packed())]
        self._read = list(self.lines)

    def _tensor(self, text: str) -> Tensor:
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device)

    def _current(self) -> "_Sums":
        """The sums of the state; only chunks that were not read before are read."""
        chunks = [self.lines] if isinstance(self.lines, Tensor) else self.lines
        same = len(self._read) <= len(chunks) and all(
            a is b for a, b in zip(self._read, chunks, strict=False)
        )
        if not same:
            self._read, self._sums = [], _Sums(self.task, self.units)
        for chunk in chunks[len(self._read) :]:
            for line in bytes(chunk.cpu().numpy().tobytes()).decode().splitlines():
                if line.startswith(PACKED):
                    self._sums.unpack(json.loads(line))
                else:
                    self._sums.add(line, json.loads(line))
            self._read.append(chunk)
        return self._sums


@dataclass
class _Sums:
    """Tallies of complete units, and the rows of the others.

    Attributes:
        tallies: number of a tally -> its contributions to the sums, as JSON; they are few.
        of_unit: number of the tally of each unit; -1 if the unit is not complete.
        often: number of units by tally.
        open: unit -> its rows, for units that are not complete.
    """

    task: Task
    units: Units | None
    tallies: dict[str, int] = field(default_factory=dict)
    of_unit: array = field(default_factory=lambda: array("i"))  # type: ignore[type-arg]
    often: Counter[int] = field(default_factory=Counter)
    open: dict[int, Rows] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.units is not None:
            self.of_unit = array("i", [-1]) * len(self.units.sizes)

    def add(self, line: str, row: dict[str, Any]) -> None:
        """Add a row; of duplicates in an open unit, or of a unit of one row, the one whose JSON sorts first counts."""
        unit, size = self._unit(row)
        if self.of_unit[unit] >= 0:
            if size == 1:
                self._close(unit, [row])
            return
        rows = self.open.setdefault(unit, {})
        name = row["sample_id"]
        if name not in rows or line < rows[name][0]:
            rows[name] = line, row
        if len(rows) == size:
            self._close(unit, [one for _, one in rows.values()])
            del self.open[unit]

    def metrics(self, complete_only: bool) -> dict[str, float]:
        """The task's metrics; with `complete_only`, without the units that lack rows.

        Raises:
            InvalidValueError: there are no rows, or no complete units.
        """
        sums: dict[str, Fraction] = {}
        texts = list(self.tallies)
        for number, count in self.often.items():
            for name, value in json.loads(texts[number]).items():
                sums[name] = sums.get(name, Fraction(0)) + count * Fraction(value)
        if not complete_only or not self._size_known:
            rows = [row for rows in self.open.values() for _, row in rows.values()]
            for tally in self.task.tallies(rows) if rows else []:
                for name, value in tally.counts.items():
                    sums[name] = sums.get(name, Fraction(0)) + Fraction(value)
        if not sums:
            raise InvalidValueError(f"{self.task.name}: no rows to aggregate")
        # Sums of fractions are exact, so that they round to what `exact_sums` gives.
        return self.task.metrics({name: float(value) for name, value in sums.items()})

    def packed(self) -> str:
        """Everything as JSON lines."""
        names = None if self.units is not None else list(self.names)
        head = json.dumps({"packed": list(self.tallies), "of_unit": self.of_unit.tolist(), "names": names})
        return "\n".join([head, *(line for rows in self.open.values() for line, _ in rows.values()), ""])

    def unpack(self, content: Mapping[str, Any]) -> None:
        """Add what `packed` has written, here or on another rank."""
        for unit, number in enumerate(content["of_unit"]):
            if content["names"] is not None:
                unit = self._numbered(content["names"][unit])
            if number >= 0:
                self._note(unit, content["packed"][number])
                self.open.pop(unit, None)

    def _unit(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Number and size of the unit of a row; a size of 0 if it is not known."""
        if self.units is not None and row["sample_id"] in self.units.of:
            number = self.units.of[row["sample_id"]]
            return number, self.units.sizes[number]
        if self.units is not None:
            raise InvalidValueError(
                f"{self.task.name}: no sample of the data has the id '{row['sample_id']}'"
            )
        return self._numbered(row["sample_id"]), int(self._size_known)

    @property
    def _size_known(self) -> bool:
        """Whether a unit can be seen to be complete; without `units` that is so where every sample is one."""
        return self.units is not None or (self.task.separable and self.task.unit_column is None)

    def _numbered(self, name: str) -> int:
        number = self.names.setdefault(name, len(self.names))
        if number == len(self.of_unit):
            self.of_unit.append(-1)
        return number

    def _close(self, unit: int, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            (tally,) = self.task.tallies(rows)
            counts = tally.counts
        except ZooExpError:  # a group that the reference ignores: MMBench without its unrotated row
            counts = {}
        self._note(unit, json.dumps(counts, sort_keys=True))

    def _note(self, unit: int, text: str) -> None:
        """Give a unit its tally; of two, the one whose JSON sorts first."""
        before = self.of_unit[unit]
        if before >= 0:
            old = list(self.tallies)[before]
            if old <= text:
                return
            self.often[before] -= 1
        number = self.tallies.setdefault(text, len(self.tallies))
        self.of_unit[unit] = number
        self.often[number] += 1

"""Merge journals into one sorted file per kind; records are also written as Parquet and CSV.

The result is byte-identical for equal rows, regardless of the number of processes and interruptions. A merge first
replaces the merged file and then removes the journals; rows that exist in both after an interruption count once.
"""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from zoo_exp.config.experiment import Experiment
from zoo_exp.files import (
    SUSPECT,
    DamagedRowError,
    Row,
    csv_cell,
    decode,
    encode,
    log,
    read_lines,
    replaced,
    set_aside,
)
from zoo_exp.runs import folder, kept, lock
from zoo_exp.runs.lines import Lines, position
from zoo_exp.runs.reading import join_masks, optional, without_collector
from zoo_exp.runs.records import MaskRow, Record, Timing, record_row

CHUNK = 20_000
"""Maximum number of rows in memory."""


@dataclass(frozen=True)
class Members:
    """Cells and arms of an experiment; rows of other cells or arms do not belong into its folder.

    Attributes:
        cells: ids of its cells; empty accepts all.
        arms: arm id -> label and table row, in the order of the experiment; empty accepts all unchanged.
    """

    cells: frozenset[str] = frozenset()
    arms: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Cells and arms of an experiment."""
        return cls(
            frozenset(cell.id for cell in experiment.cells()),
            {arm.id: (arm.label, arm.row) for arm in experiment.arms},
        )

    def record(self, row: Mapping[str, Any]) -> tuple[Row, bool]:
        """Convert a row to the record that is merged; return it and whether it differs from the row.

        Raises:
            DamagedRowError: the row is not a valid record, or belongs to another cell or arm.
        """
        made = record_row(row)
        if self.cells and made["cell"] not in self.cells:
            raise DamagedRowError(f"cell {made['cell']} does not belong to this run")
        if self.arms and made["arm_id"] not in self.arms:
            raise DamagedRowError(f"arm {made['arm_id']} does not belong to this run")
        label, line = self.arms.get(made["arm_id"], (made["arm"], made["row"]))
        same = "version" in row and (label, line) == (made["arm"], made["row"])
        if not same:
            made = Record.from_row(made).to_row() | {"arm": label, "row": line}
        return made, not same


def merge_run(experiment: Experiment) -> None:
    """Merge records, kept tokens, masks and timings in the folder of an experiment."""
    merge(experiment.run_dir, members := Members.of(experiment))
    kept.merge(experiment.run_dir, members.arms)
    merge_masks(experiment.run_dir, members)
    merge_timings(experiment.run_dir, members)


def merge(run: Path, members: Members | None = None) -> int:
    """Merge all records of a run folder into `records.jsonl`, `.parquet` and `.csv`, then remove the journals.

    Rows are sorted and unique by (task, arm, sample id); of two rows with the same key, the one merged earlier is
    kept. Rows of version 1 are converted to version 2. Every file is replaced atomically; a file with damaged lines
    is backed up first.

    Args:
        run: the run folder; only one process merges at a time, others wait.
        members: cells and arms of the run; records get their labels, so that arms can be renamed.

    Returns:
        The number of records.
    """
    with lock.waiting(run, "merge"), without_collector():
        sources = [folder.merged(run, folder.RECORDS), *folder.journals(run, folder.RECORDS)]
        index = _Index(members or Members())
        for number, path in enumerate(sources):
            if index.add(number, path):
                set_aside(path)
        _write(run, sources, index)
        for path in sources[1:]:
            path.unlink()
        return index.rows


def merge_masks(run: Path, members: Members | None = None) -> None:
    """Merge masks: one row per question, sorted, with arms in the order of the experiment."""
    arms = (members or Members()).arms
    with lock.waiting(run, "merge"):
        rows, sources = _optional_rows(run, folder.MASKS, MaskRow.from_row)
        order = {arm: place for place, arm in enumerate(arms)}
        ids = {label: arm for arm, (label, _) in arms.items()}
        merged = []
        for row in join_masks(rows):
            # Version 1 did not record arm ids.
            known = [replace(arm, arm_id=arm.arm_id or ids.get(arm.arm, "")) for arm in row.arms]
            if arms:
                known = [replace(arm, arm=arms[arm.arm_id][0]) for arm in known if arm.arm_id in arms]
                known.sort(key=lambda arm: order[arm.arm_id])
            if known:
                merged.append(replace(row, arms=tuple(known)))
        merged.sort(key=lambda row: (row.task, row.sample_id))
        _replace_rows(folder.merged(run, folder.MASKS), [row.to_row() for row in merged], sources)


def merge_timings(run: Path, members: Members | None = None) -> None:
    """Merge timings, those of earlier attempts first."""
    arms = (members or Members()).arms
    with lock.waiting(run, "merge"):
        rows, sources = _optional_rows(run, folder.TIMINGS, Timing.from_row)
        lines: dict[Timing, None] | list[Timing]
        named = [replace(row, arm=arms[row.arm_id][0]) if row.arm_id in arms else row for row in rows]
        # An interrupted merge leaves rows in both files; two batches never have exactly the same times.
        lines = list(dict.fromkeys(row for row in named if row.sample_ids))
        old = [row for row in named if not row.sample_ids]
        _replace_rows(folder.merged(run, folder.TIMINGS), [row.to_row() for row in old + lines], sources)


def _optional_rows(run: Path, kind: str, make: Any) -> tuple[list[Any], list[Path]]:
    """Rows of an optional kind, and the journals that contain some of them."""
    rows = []
    merged, journals = folder.merged(run, kind), folder.journals(run, kind)
    for path in [merged, *journals]:
        damaged: list[str] = []
        rows += optional(path, make, damaged)
        for sentence in damaged:
            log.warning(sentence)
        if damaged:
            set_aside(path, move=not (path.is_file() and os.access(path, os.R_OK)))
    return rows, [path for path in journals if path.exists()]


def _replace_rows(path: Path, rows: Iterable[Row], journals: Sequence[Path]) -> None:
    content = b"".join(map(encode, rows))
    if content != (path.read_bytes() if path.exists() else b""):
        with replaced(path) as file:
            file.write(content)
    for journal in journals:
        journal.unlink()


@dataclass
class _Group:
    """The records of a task and arm.

    Attributes:
        samples: number of the question of each record.
        places: its position.
        changed: whether it is written differently from how it was read.
        seen: whether there is a record of a question, by number; shorter than the list of questions.
    """

    samples: "array[int]" = field(default_factory=lambda: array("i"))
    places: "array[int]" = field(default_factory=lambda: array("q"))
    changed: bytearray = field(default_factory=bytearray)
    seen: bytearray = field(default_factory=bytearray)

    def add(self, sample: int, place: int, changed: bool) -> bool:
        """Add a record, unless there is one of this question; return whether it was added."""
        if sample >= len(self.seen):
            self.seen.extend(bytes(sample + 1 - len(self.seen)))
        elif self.seen[sample]:
            return False
        self.seen[sample] = 1
        self.samples.append(sample)
        self.places.append(place)
        self.changed.append(changed)
        return True


@dataclass
class _Index:
    """Position of each record on disk: 14 bytes per row, so that the index of millions of rows fits in memory."""

    members: Members
    groups: dict[tuple[str, str], _Group] = field(default_factory=dict)
    """(task, arm) -> records."""
    kinds: dict[tuple[tuple[str, ...], tuple[type, ...]], None] = field(default_factory=dict)
    """Distinct combinations of keys and value types of the rows."""
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Task -> sample id -> number."""
    rows: int = 0

    def add(self, number: int, path: Path) -> bool:
        """Index the rows of a file; return whether it has damaged lines."""
        damaged: list[str] = []
        for line in read_lines(path, self.members.record, damaged):
            row, changed = line.row
            group = self.groups.setdefault((row["task"], row["arm"]), _Group())
            numbers = self.numbers.setdefault(row["task"], {})
            sample = numbers.setdefault(row["sample_id"], len(numbers))
            if not group.add(sample, position(number, line.offset), changed):
                continue
            self.rows += 1
            self.kinds[tuple(row), tuple(map(type, row.values()))] = None
        for sentence in damaged:
            log.warning(sentence)
        return bool(damaged)

    def places(self) -> Iterator[tuple[int, bool]]:
        """Positions of all records, in order, and whether they change."""
        ids_of = {task: list(numbers) for task, numbers in self.numbers.items()}
        for (task, _), group in sorted(self.groups.items(), key=itemgetter(0)):
            ids = ids_of[task]
            names = [ids[sample] for sample in group.samples]
            for number in sorted(range(len(names)), key=names.__getitem__):
                yield group.places[number], bool(group.changed[number])

    def columns(self) -> dict[str, str]:
        """Column name -> type: int, float, bool, str, or json for anything else."""
        found: dict[str, set[type]] = {}
        for names, types in sorted(self.kinds, key=lambda shape: shape[0]):
            for name, kind in zip(names, types, strict=True):
                found.setdefault(name, set()).add(kind)
        return {name: _kind(types - {type(None)}) for name, types in found.items()}


def _kind(types: set[type]) -> str:
    if types <= {int, float} and types:
        return "int" if types == {int} else "float"
    return next((kind.__name__ for kind in (bool, str) if types <= {kind}), "json")


def _write(run: Path, sources: list[Path], index: _Index) -> None:
    with ExitStack() as stack:
        files = stack.enter_context(Lines(sources))
        out = stack.enter_context(replaced(folder.merged(run, folder.RECORDS)))
        table = _Table(stack, run, index.columns())
        chunk: list[bytes] = []
        for place, changed in index.places():
            line = files.at(place)
            if changed:
                line = encode(index.members.record(decode(line))[0])
            chunk.append(line)
            if len(chunk) == CHUNK:
                out.writelines(chunk)
                table.write(chunk)
                chunk = []
        out.writelines(chunk)
        table.write(chunk)


class _Table:
    """Writes records as Parquet and CSV; options and score parts, which differ by arm and task, as JSON."""

    def __init__(self, stack: ExitStack, run: Path, columns: Mapping[str, str]) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
        self.columns = columns
        self.schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in columns.items()])
        self.parquet: Any = None
        self._texts: dict[str, str] = {}
        if columns:
            targets = [
                stack.enter_context(replaced(folder.merged(run, folder.RECORDS, suffix)))
                for suffix in (".parquet", ".csv")
            ]
            self.parquet = stack.enter_context(parquet.ParquetWriter(targets[0], self.schema))
            self.csv = stack.enter_context(csv.CSVWriter(targets[1], self.schema))

    def write(self, lines: list[bytes]) -> None:
        """Append rows."""
        import pyarrow as pa

        if not lines or self.parquet is None:
            return
        rows: list[Row] = [json.loads(line) for line in lines]
        arrays = []
        for place, (kind, values) in enumerate(zip(self.columns.values(), self._values(rows), strict=True)):
            if kind == "json":
                values = [None if v is None else self._text(v) for v in values]
            arrays.append(pa.array(values, self.schema.field(place).type))
        batch = pa.record_batch(arrays, schema=self.schema)
        self.parquet.write_batch(batch)
        plain = [_plain(array) for array in arrays]
        self.csv.write_batch(pa.record_batch(plain, schema=self.schema))

    def _values(self, rows: list[Row]) -> Iterable[Sequence[Any]]:
        """Rows by column; None where a row lacks the column."""
        if len(self.columns) > 1:
            with suppress(KeyError):  # usually all rows have all columns; four times faster
                return list(zip(*map(itemgetter(*self.columns), rows), strict=True))
        return ([row.get(name) for row in rows] for name in self.columns)

    def _text(self, value: Any) -> str:
        """Encode a value as JSON, with a cache: options and score parts repeat in many rows."""
        key = repr(value)
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) > CHUNK:
                self._texts.clear()
            text = self._texts[key] = json.dumps(value, ensure_ascii=False)
        return text


def _plain(array: Any) -> Any:
    """A column for the CSV file: without formulas; see `files.csv_cell`."""
    import pyarrow as pa
    from pyarrow import compute

    if not pa.types.is_string(array.type):
        return array
    if not compute.any(
        compute.match_substring_regex(array, SUSPECT)
    ).as_py():  # mostly there is nothing to change
        return array
    return pa.array([csv_cell(text) for text in array.to_pylist()], array.type)

"""From many journals to one sorted file of each kind; records also as parquet and csv.

The same rows give the same bytes, however many processes made them and however often they were killed. A merge
replaces the merged file first and removes the journals then: rows that a kill leaves in both count once.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from zoo_exp.config.experiment import Experiment
from zoo_exp.files import DamagedRowError, Row, decode, encode, log, read_lines, replaced, set_aside
from zoo_exp.runs import folder, lock
from zoo_exp.runs.reading import join_masks, optional, without_collector
from zoo_exp.runs.records import MaskRow, Record, Timing, record_row

CHUNK = 20_000
"""Rows that are in memory at a time."""
_SHIFT = 44  # a place is file number * 2**44 + byte offset: 16 TB per file


@dataclass(frozen=True)
class Members:
    """The cells and arms of an experiment. Rows of others do not belong into its folder.

    Attributes:
        cells: ids of its cells; empty takes the rows of all.
        arms: arm id -> label and table row, in the order of the experiment; empty takes all as they are.
    """

    cells: frozenset[str] = frozenset()
    arms: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Those of an experiment."""
        return cls(
            frozenset(cell.id for cell in experiment.cells()),
            {arm.id: (arm.label, arm.row) for arm in experiment.arms},
        )

    def record(self, row: Mapping[str, Any]) -> tuple[Row, bool]:
        """A record as it is merged, and whether it differs from the row that was read.

        Raises:
            DamagedRowError: it is no record, or one of another cell or arm.
        """
        made = record_row(row)
        if self.cells and made["cell"] not in self.cells:
            raise DamagedRowError(f"cell {made['cell']} is not one of this run")
        if self.arms and made["arm_id"] not in self.arms:
            raise DamagedRowError(f"arm {made['arm_id']} is not one of this run")
        label, line = self.arms.get(made["arm_id"], (made["arm"], made["row"]))
        same = "version" in row and (label, line) == (made["arm"], made["row"])
        if not same:
            made = Record.from_row(made).to_row() | {"arm": label, "row": line}
        return made, not same


def merge_run(experiment: Experiment) -> None:
    """Merge everything in the folder of an experiment."""
    members = Members.of(experiment)
    merge(experiment.run_dir, members)
    merge_masks(experiment.run_dir, members)
    merge_timings(experiment.run_dir, members)


def merge(run: Path, members: Members | None = None) -> int:
    """Put all records of a run folder into `records.jsonl`, `.parquet` and `.csv`, then drop the journals.

    Rows are sorted and unique by (task, arm, sample id); of two rows with the same key the one that was merged
    before stays. Rows of version 1 become rows of version 2. Every file is replaced in one step; a file with a
    damaged line is kept, under another name.

    Args:
        run: the run folder; only one process merges at a time, the others wait.
        members: what belongs into it; an arm takes the label that it has there, so that it may be renamed.

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
    """One row per question, sorted, with the arms in the order of the experiment."""
    arms = (members or Members()).arms
    with lock.waiting(run, "merge"):
        rows, sources = _optional_rows(run, folder.MASKS, MaskRow.from_row)
        order = {arm: place for place, arm in enumerate(arms)}
        ids = {label: arm for arm, (label, _) in arms.items()}
        merged = []
        for row in join_masks(rows):
            # Version 1 did not write the ids of arms.
            known = [replace(arm, arm_id=arm.arm_id or ids.get(arm.arm, "")) for arm in row.arms]
            if arms:
                known = [replace(arm, arm=arms[arm.arm_id][0]) for arm in known if arm.arm_id in arms]
                known.sort(key=lambda arm: order[arm.arm_id])
            if known:
                merged.append(replace(row, arms=tuple(known)))
        merged.sort(key=lambda row: (row.task, row.sample_id))
        _replace_rows(folder.merged(run, folder.MASKS), [row.to_row() for row in merged], sources)


def merge_timings(run: Path, members: Members | None = None) -> None:
    """All timings, those of earlier attempts first."""
    arms = (members or Members()).arms
    with lock.waiting(run, "merge"):
        rows, sources = _optional_rows(run, folder.TIMINGS, Timing.from_row)
        lines: dict[Timing, None] | list[Timing]
        named = [replace(row, arm=arms[row.arm_id][0]) if row.arm_id in arms else row for row in rows]
        # A merge that was killed leaves rows in both files; a batch of the same questions cannot take exactly as long.
        lines = list(dict.fromkeys(row for row in named if row.sample_ids))
        old = [row for row in named if not row.sample_ids]
        _replace_rows(folder.merged(run, folder.TIMINGS), [row.to_row() for row in old + lines], sources)


def _optional_rows(run: Path, kind: str, make: Any) -> tuple[list[Any], list[Path]]:
    """The rows of a kind that can be done without, and the journals that hold some of them."""
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
class _Index:
    """Where each record lies: 120 bytes a row, so that millions fit in memory while the rows stay on disk."""

    members: Members
    groups: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """(task, arm) -> sample id -> place."""
    changed: set[int] = field(default_factory=set)
    """Places of the rows that are merged in other words than they were read."""
    kinds: dict[tuple[tuple[str, ...], tuple[type, ...]], None] = field(default_factory=dict)
    """The shapes that rows have: names and types of their values."""
    names: dict[str, str] = field(default_factory=dict)
    rows: int = 0

    def add(self, number: int, path: Path) -> bool:
        """Take up the rows of a file; true if lines of it are damaged."""
        damaged: list[str] = []
        for line in read_lines(path, self.members.record, damaged):
            row, changed = line.row
            group = self.groups.setdefault((row["task"], row["arm"]), {})
            # One string for the id of a sample under all arms.
            sample = self.names.setdefault(row["sample_id"], row["sample_id"])
            if sample in group:
                continue
            place = (number << _SHIFT) + line.offset
            group[sample] = place
            self.rows += 1
            if changed:
                self.changed.add(place)
            self.kinds[tuple(row), tuple(map(type, row.values()))] = None
        for sentence in damaged:
            log.warning(sentence)
        return bool(damaged)

    def places(self) -> Iterator[int]:
        """The place of every record, in order."""
        for key in sorted(self.groups):
            group = self.groups[key]
            for sample in sorted(group):
                yield group[sample]

    def columns(self) -> dict[str, str]:
        """Name -> kind of each column: int, float, bool, str, or json for anything else."""
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
        files = [stack.enter_context(_Lines(path)) for path in sources]
        out = stack.enter_context(replaced(folder.merged(run, folder.RECORDS)))
        table = _Table(stack, run, index.columns())
        chunk: list[bytes] = []
        for place in index.places():
            line = files[place >> _SHIFT].at(place & ((1 << _SHIFT) - 1))
            if place in index.changed:
                line = encode(index.members.record(decode(line))[0])
            chunk.append(line)
            if len(chunk) == CHUNK:
                out.writelines(chunk)
                table.write(chunk)
                chunk = []
        out.writelines(chunk)
        table.write(chunk)


class _Lines:
    """Lines of a file by offset, in any order: not mapped, which takes memory, nor buffered, which reads too much."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, -1

    def __enter__(self) -> Self:
        with suppress(FileNotFoundError):
            self._file = os.open(self._path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def at(self, offset: int) -> bytes:
        """The line that starts there, with its end."""
        size = 1024
        while True:
            data = os.pread(self._file, size, offset)
            end = data.find(b"\n") + 1
            if end:
                return data[:end]
            if data and len(data) < size:  # the last line, which an editor left without its end
                return data + b"\n"
            if len(data) < size:
                raise OSError(errno.EIO, "a line has vanished", str(self._path))
            size *= 4


class _Table:
    """The records as parquet and csv; options and score parts, which differ between arms and tasks, as JSON."""

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
        self.csv.write_batch(batch)

    def _values(self, rows: list[Row]) -> Iterable[Sequence[Any]]:
        """The rows by column; None where a row lacks one."""
        if len(self.columns) > 1:
            with suppress(KeyError):  # mostly all rows have all columns, and this is four times as fast
                return list(zip(*map(itemgetter(*self.columns), rows), strict=True))
        return ([row.get(name) for row in rows] for name in self.columns)

    def _text(self, value: Any) -> str:
        """A value as JSON; options and score parts are the same in many rows."""
        key = repr(value)
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) > CHUNK:
                self._texts.clear()
            text = self._texts[key] = json.dumps(value, ensure_ascii=False)
        return text

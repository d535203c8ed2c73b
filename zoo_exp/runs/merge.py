"""From many journals to one sorted file of records, as JSON lines, parquet and csv.

The same records give the same bytes, however many processes made them and however often they were killed.
"""

import errno
import gc
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from zoo_exp.runs import journal, lock
from zoo_exp.runs.journal import Row

KIND = "records"
CHUNK = 20_000
"""Rows that are in memory at a time."""
_PARSE = json.JSONDecoder().raw_decode
_SHIFT = 44  # a place is file number * 2**44 + byte offset: 16 TB per file


def merge(folder: Path, labels: Mapping[str, str] | None = None) -> int:
    """Put all records of a run folder into `records.jsonl`, `.parquet` and `.csv`, then drop the journals.

    Rows are sorted and unique by (task, arm, sample id); of two rows with the same key the one that was merged
    before stays. Every file is replaced in one step; a file with a damaged line is kept, under another name.

    Args:
        folder: the run folder; only one process merges at a time, the others wait.
        labels: arm id -> label; a row of that arm takes it, so that an arm may be renamed.

    Returns:
        How many records there are.
    """
    with lock.waiting(folder, "merge"), _without_collector():
        sources = [journal.merged_file(folder, KIND), *journal.journals(folder, KIND)]
        index = _Index(labels or {})
        for number, path in enumerate(sources):
            if index.add(number, path):
                journal.keep_damaged(path)
        _write(folder, sources, index)
        for path in sources[1:]:
            path.unlink()
        return index.rows


def gather(folder: Path, kind: str) -> None:
    """Append the journals of a kind to its merged file, as they are, and drop them."""
    with lock.waiting(folder, "merge"):
        sources = journal.journals(folder, kind)
        if not sources:
            return
        merged = journal.merged_file(folder, kind)
        with replaced(merged) as out:
            for path in [merged, *sources]:
                out.writelines(line.data for line in journal.lines(path))
        for path in sources:
            path.unlink()


@contextmanager
def replaced(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path`, whole, when the block ends without an error.

    Args:
        path: where it shall be.
        sync: wait until it is on disk, so that it also survives the machine's end.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows refer to nothing that refers to them: looking for cycles among millions would take a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass
class _Index:
    """Where each record lies: 120 bytes a row, so that millions fit in memory while the rows stay on disk."""

    labels: Mapping[str, str]
    groups: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """(task, arm) -> sample id -> place."""
    renamed: set[int] = field(default_factory=set)
    kinds: dict[tuple[tuple[str, ...], tuple[type, ...]], None] = field(default_factory=dict)
    """The shapes that rows have: names and types of their values."""
    names: dict[str, str] = field(default_factory=dict)
    rows: int = 0

    def add(self, number: int, path: Path) -> bool:
        """Take up the rows of a file; true if lines of it cannot be read."""
        damaged: list[str] = []
        for line in journal.lines(path, damaged):
            row = line.row
            try:
                arm = self.labels.get(row["arm_id"], row["arm"])
                task, sample = row["task"], row["sample_id"]
            except KeyError as error:
                damaged.append(f"{path}, line {line.number} is no record (it lacks {error}): it is left out")
                continue
            group = self.groups.setdefault((task, arm), {})
            # One string for the id of a sample under all arms.
            sample = self.names.setdefault(sample, sample)
            if sample in group:
                continue
            place = (number << _SHIFT) + line.offset
            group[sample] = place
            self.rows += 1
            if arm != row["arm"]:
                self.renamed.add(place)
            self.kinds[tuple(row), tuple(map(type, row.values()))] = None
        for sentence in damaged:
            journal.log.warning(sentence)
        return bool(damaged)

    def places(self) -> Iterator[tuple[str, int]]:
        """Label of the arm and place of every record, in order."""
        for task, arm in sorted(self.groups):
            group = self.groups[task, arm]
            for sample in sorted(group):
                yield arm, group[sample]

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


def _write(folder: Path, sources: list[Path], index: _Index) -> None:
    merged = journal.merged_file(folder, KIND)
    with ExitStack() as stack:
        files = [stack.enter_context(_Lines(path)) for path in sources]
        out = stack.enter_context(replaced(merged))
        table = _Table(stack, folder, index.columns())
        chunk: list[bytes] = []
        for arm, place in index.places():
            line = files[place >> _SHIFT].at(place & ((1 << _SHIFT) - 1))
            if place in index.renamed:
                line = journal.encode({**json.loads(line), "arm": arm})
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

    def __enter__(self) -> "_Lines":
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
            if len(data) < size:
                raise OSError(errno.EIO, "a line has vanished", str(self._path))
            size *= 4


class _Table:
    """The records as parquet and csv; options and score parts, which differ between arms and tasks, as JSON."""

    def __init__(self, stack: ExitStack, folder: Path, columns: Mapping[str, str]) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
        self.columns = columns
        self.schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in columns.items()])
        self.parquet: Any = None
        self._texts: dict[str, str] = {}
        if columns:
            targets = [stack.enter_context(replaced(folder / f"{KIND}{end}")) for end in (".parquet", ".csv")]
            self.parquet = stack.enter_context(parquet.ParquetWriter(targets[0], self.schema))
            self.csv = stack.enter_context(csv.CSVWriter(targets[1], self.schema))

    def write(self, lines: list[bytes]) -> None:
        """Append rows."""
        import pyarrow as pa

        if not lines or self.parquet is None:
            return
        rows: list[Row] = [_PARSE(line.decode())[0] for line in lines]
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

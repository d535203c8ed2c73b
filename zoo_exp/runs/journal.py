"""Append-only files of JSON lines, one per cell, rank and attempt: what was recorded is on disk before the next batch.

A run folder holds what is merged (`records.jsonl`) and, below `journals/`, what is not merged yet
(`records-CELL-rank0-001.jsonl`). Attempts are numbered, never dated, so clocks may disagree between machines.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from zoo_exp.errors import ZooExpError

Row = dict[str, Any]
FOLDER = "journals"
DAMAGED = ".damaged"
"""Ending of a file that was put aside, whole, because a line of it cannot be read."""
_PARSE = json.JSONDecoder().raw_decode
log = logging.getLogger("zoo_exp")


def encode(row: Mapping[str, Any]) -> bytes:
    """A row as its line; the same row always gives the same bytes."""
    return (json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n").encode()


class Journal:
    """Appends rows to a file of its own below `folder/journals`; the file is made with the first row.

    Args:
        folder: the run folder.
        kind: what the rows are: records, timings or masks.
        cell: id of the cell that they belong to.
        rank: number of the process.
    """

    def __init__(self, folder: Path, kind: str, cell: str, rank: int = 0) -> None:
        self.folder, self.stem = folder / FOLDER, f"{kind}-{cell}-rank{rank}"
        self._file: int | None = None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and return when the disk has them.

        Raises:
            ZooExpError: the disk is full or fails; the file then ends with the last row that is whole.
        """
        data = b"".join(map(encode, rows))
        if not data:
            return
        try:
            file = self._file if self._file is not None else self._open()
            end = os.lseek(file, 0, os.SEEK_END)
            try:
                _write(file, data)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise
        except OSError as error:
            self.close()
            room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            advice = "make room" if room else "mend the disk"
            raise ZooExpError(
                f"cannot write {self.folder}: {error.strerror}. What was recorded is kept; {advice}, "
                "and the same command goes on from there"
            ) from error

    def close(self) -> None:
        """Close the file; a later row would start the next attempt's."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        """A file that nobody else has ever written to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((_attempt(path) for path in self.folder.glob(f"{self.stem}-*")), default=0)
        while True:
            path = self.folder / f"{self.stem}-{number:03d}.jsonl"
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            except FileExistsError:
                number += 1
            else:
                return self._file


def merged_file(folder: Path, kind: str) -> Path:
    """Where merged rows of a kind lie."""
    return folder / f"{kind}.jsonl"


def journals(folder: Path, kind: str, cells: Collection[str] | None = None) -> list[Path]:
    """Files that are not merged yet, by name; those of some cells only if `cells` is given."""
    paths = sorted((folder / FOLDER).glob(f"{kind}-*.jsonl"))
    return paths if cells is None else [path for path in paths if path.name.split("-")[1] in cells]


def read(folder: Path, kind: str, cells: Collection[str] | None = None) -> Iterator[Row]:
    """Rows of a run folder, those not merged yet first; a row may come twice.

    Journals come before the merged file, so that a reader beside a merge misses nothing: what vanished from
    `journals/` is in the merged file by then.

    Args:
        folder: the run folder.
        kind: records, timings or masks.
        cells: ids of the cells whose journals matter; the merged file is read whole.
    """
    for path in [*journals(folder, kind, cells), merged_file(folder, kind)]:
        for line in lines(path):
            yield line.row


class Line(NamedTuple):
    """A line of a file: its number (from 1), where it starts, its bytes with the line end, and its row."""

    number: int
    offset: int
    data: bytes
    row: Row


def lines(path: Path, damaged: list[str] | None = None) -> Iterator[Line]:
    """Every line of a file that can be read; no file, no lines.

    A last line without its end is what a killed process leaves behind: ignored. Any other line that is no JSON
    object is left out with a warning that names it; `damaged` collects these sentences instead of the log.
    """
    offset = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, start=1):
            start, offset = offset, offset + len(line)
            if not line.endswith(b"\n"):
                continue
            try:
                row = _row(line.decode())
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield Line(number, start, line, row)
                continue
            sentence = f"{path}, line {number} is damaged: it is left out, and what it held is made again"
            if damaged is None:
                log.warning(sentence)
            else:
                damaged.append(sentence)


def _row(text: str) -> Any:
    """What `json.loads` gives, sooner for a line as `encode` writes it."""
    row, end = _PARSE(text) if text.startswith("{") else (None, 0)
    return row if end == len(text) - 1 else json.loads(text)


def keep_damaged(path: Path) -> None:
    """Copy a damaged file to a name that nothing reads, for people to look at."""
    number = 0
    while (target := path.with_name(f"{path.name}{number or ''}{DAMAGED}")).exists():
        number += 1
    shutil.copyfile(path, target)


def _attempt(path: Path) -> int:
    number = path.name.split(".")[0].rsplit("-", 1)[-1]
    return int(number) if number.isdigit() else 0


def _write(file: int, data: bytes) -> None:
    """Write everything: `os.write` may stop early, for instance just before the disk is full."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

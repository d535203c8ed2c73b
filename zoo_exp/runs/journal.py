"""Append-only JSONL files, one per cell, rank and attempt. Rows are on disk before the next batch starts."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo_exp.errors import ZooExpError
from zoo_exp.files import encode
from zoo_exp.runs import folder


class Journal:
    """Appends rows to a new file in `run/journals`, which is created with the first row.

    Args:
        run: the run folder.
        kind: kind of the rows, one of `folder.KINDS`.
        cell: id of their cell.
        rank: rank of the process.
    """

    def __init__(self, run: Path, kind: str, cell: str, rank: int = 0) -> None:
        self.run, self.kind, self.cell, self.rank = run, kind, cell, rank
        self._file: int | None = None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and wait until they are on disk (fsync).

        Raises:
            ZooExpError: the disk is full or failed; the file then ends with the last complete row.
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
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            advice = "Free some space" if full else "Fix the disk"
            raise ZooExpError(
                f"cannot write {self.run / folder.JOURNALS}: {error.strerror}. Records written so far are safe. "
                f"{advice}, then rerun the same command to resume"
            ) from error

    def close(self) -> None:
        """Close the file; a later row would open a new one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        """Create a new file with the next free attempt number."""
        number = 1 + folder.attempts(self.run, self.kind, self.cell, self.rank)
        while True:
            path = folder.journal(self.run, self.kind, self.cell, self.rank, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            except FileExistsError:
                number += 1
            else:
                return self._file


def _write(file: int, data: bytes) -> None:
    """Write all data: `os.write` may write only a part, for example when the disk is almost full."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]

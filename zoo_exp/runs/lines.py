"""Random access to the lines of a run's files, which other processes may replace meanwhile."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Self

from zoo_exp.errors import MissingFileError

OPEN = 64
"""Files that are open at a time: the journals of many ranks may be more than a process may open."""
_SHIFT = 44  # position = file number * 2**44 + byte offset: up to 16 TB per file


def position(number: int, offset: int) -> int:
    """A line's place in some files as one number; places of later files are larger."""
    return (number << _SHIFT) + offset


class Lines:
    """Lines by position, with `pread`: a memory map takes memory, a buffer reads too much.

    A file that was replaced after it was opened is still read as it was; one that had to be closed and was replaced is
    refused.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._files: dict[int, int] = {}  # number of a path -> descriptor, the one used last at the end
        self._known: dict[int, tuple[int, int]] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def stream(self, number: int) -> IO[bytes]:
        """A file from its start.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            return os.fdopen(os.dup(self._opened(number)), "rb")

    def at(self, place: int) -> bytes:
        """The line at a position, including its line break.

        Raises:
            MissingFileError: the file was replaced or removed.
        """
        number, offset = place >> _SHIFT, place & ((1 << _SHIFT) - 1)
        with self._lock:  # another thread may close the file
            try:
                return self._read(number, self._opened(number), offset)
            except FileNotFoundError:
                raise self._changed(number) from None

    def _read(self, number: int, file: int, offset: int) -> bytes:
        size = 1024
        while True:
            data = os.pread(file, size, offset)
            end = data.find(b"\n") + 1
            if end:
                return data[:end]
            if data and len(data) < size:  # the last line, saved by an editor without a line break
                return data + b"\n"
            if len(data) < size:
                raise OSError(errno.EIO, "a line has disappeared", str(self.paths[number]))
            size *= 4

    def _opened(self, number: int) -> int:
        file = self._files.pop(number, None)
        if file is None:
            if len(self._files) >= OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            file = os.open(self.paths[number], os.O_RDONLY)
            state = os.fstat(file)
            if self._known.setdefault(number, (state.st_dev, state.st_ino)) != (state.st_dev, state.st_ino):
                os.close(file)
                raise self._changed(number)
        self._files[number] = file
        return file

    def _changed(self, number: int) -> MissingFileError:
        return MissingFileError(f"{self.paths[number]} has changed while it was read: run the command again")

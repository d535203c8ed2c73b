"""Append-only files of JSON lines, one per rank: what was recorded is on disk before the next batch starts."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from zoo_exp.core.errors import MissingFileError

Row = dict[str, Any]


def encode(row: Mapping[str, Any]) -> str:
    """A row as its line, without the line end; the same row always gives the same line."""
    return json.dumps(row, ensure_ascii=False, separators=(", ", ": "))


class Journal:
    """Appends rows to `folder/name.jsonl` (rank 0) or `folder/name.rankR.jsonl`, each batch flushed and fsynced.

    Args:
        folder: the run folder.
        name: what the rows are, such as records.
        rank: number of the process.
    """

    def __init__(self, folder: Path, name: str, rank: int = 0) -> None:
        self.path = folder / (f"{name}.rank{rank}.jsonl" if rank else f"{name}.jsonl")
        self._mend()
        self.file = self.path.open("a", encoding="utf-8")

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and return when the disk has them."""
        self.file.write("".join(encode(row) + "\n" for row in rows))
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mend(self) -> None:
        """Cut off a line that a killed process left half-written, so that the next row starts on its own line."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            data = file.read()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                file.truncate(end)


def read(folder: Path, name: str) -> Iterator[Row]:
    """Rows of all ranks' files, rank 0 first; a last line without its end is ignored.

    Raises:
        MissingFileError: a damaged line that is not the last one, by file and number.
    """
    for path in [folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}.rank*.jsonl"))]:
        if not path.exists():
            continue
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    continue
                try:
                    yield json.loads(line)
                except ValueError:
                    raise MissingFileError(
                        f"{path}, line {number} is damaged (not JSON): mend or remove that line; "
                        "the run then makes its records again"
                    ) from None


def merge(folder: Path, name: str, key: tuple[str, ...]) -> int:
    """Put all ranks' rows into `folder/name.jsonl`: sorted and unique by `key`, replaced in one step.

    Returns:
        How many rows there are.
    """
    unique: dict[tuple[Any, ...], Row] = {}
    for row in read(folder, name):
        unique.setdefault(tuple(row[part] for part in key), row)
    target, temporary = folder / f"{name}.jsonl", folder / f".{name}.jsonl.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        for place in sorted(unique):
            file.write(encode(unique[place]) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    for path in folder.glob(f"{name}.rank*.jsonl"):
        path.unlink()
    return len(unique)


def gather(folder: Path, name: str) -> None:
    """Append the other ranks' rows to `folder/name.jsonl`, as they are."""
    for path in sorted(folder.glob(f"{name}.rank*.jsonl")):
        with path.open(encoding="utf-8") as file, Journal(folder, name) as target:
            target.append(json.loads(line) for line in file if line.endswith("\n"))
        path.unlink()

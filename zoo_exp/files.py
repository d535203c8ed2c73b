"""Atomic file writes, and a JSONL reader that skips damaged lines."""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar

from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError

Row = dict[str, Any]
T = TypeVar("T")
DAMAGED = ".damaged"
"""Suffix of the backup of a file with unreadable lines."""
TEMPORARY = ".*.tmp"
"""Pattern of the temporary files of `replaced`."""
DEPTH = 64
"""Maximum nesting depth of a row; deeper rows could exhaust the stack when they are written again."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
log = logging.getLogger("zoo_exp")
_parse = json.JSONDecoder().raw_decode


class DamagedRowError(ValueError):
    """A row that is not valid for its file; the message gives the reason."""


class Line(NamedTuple, Generic[T]):
    """One line of a JSONL file.

    Attributes:
        number: line number, from 1.
        offset: byte offset of the line in the file.
        row: the parsed content.
    """

    number: int
    offset: int
    row: T


@contextmanager
def replaced(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that atomically replaces `path` when the block ends without an error.

    The temporary file is locked while it is written, so that `remove_leftovers` can tell it from the files of killed
    processes.

    Args:
        path: the target; its folder is created.
        sync: wait until the data is on disk (fsync), so that it survives a power failure.

    Raises:
        MissingFileError: the folder cannot be created or written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = _locked(path)
        with file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            temporary.replace(path)
    except ZooExpError:
        raise
    except OSError as error:
        raise MissingFileError(
            f"cannot write {path}: {error.strerror or error}. Free some space, or choose a writable folder"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Add the folder to errors of the disk that name no file, such as those of a write into an open one.

    Raises:
        MissingFileError: the disk is full, or cannot be written to.
    """
    try:
        yield
    except ZooExpError:
        raise
    except OSError as error:
        if error.filename is not None or error.errno not in _DISK:
            raise
        raise MissingFileError(
            f"cannot write {folder}: {os.strerror(error.errno)}. Make room, or give a folder that can be written to"
        ) from error


def _locked(path: Path) -> tuple[Path, IO[bytes]]:
    """Create a locked temporary file beside `path`; `remove_leftovers` does not remove it while it is open."""
    name = f".{path.name[:200]}.{socket.gethostname()}-{os.getpid()}.tmp"
    temporary = path.with_name(name)
    while True:
        file = temporary.open("wb")
        with suppress(OSError):  # the file system may not support locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                return temporary, file
        file.close()  # `remove_leftovers` of another process removed it between `open` and `flock`


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; see `replaced`."""
    with replaced(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically, as UTF-8 with Unix line ends."""
    write_bytes(path, content.encode())


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files of killed processes from a folder and its subfolders; return their number."""
    count = 0
    for path in folder.rglob(TEMPORARY):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            count += 1
    return count


def set_aside(path: Path, *, move: bool = False) -> Path:
    """Back up a damaged file under a name with the suffix `DAMAGED`, which no reader opens.

    Args:
        path: the file.
        move: rename the file instead of copying it.

    Returns:
        Path of the backup.

    Raises:
        MissingFileError: the folder cannot be written to, or the disk is full.
    """
    number = 0
    while os.path.lexists(target := path.with_name(f"{path.name}{number or ''}{DAMAGED}")):
        number += 1
    try:
        if move:
            path.rename(target)
        else:
            shutil.copyfile(path, target)
    except OSError as error:
        raise MissingFileError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def encode(row: Mapping[str, Any]) -> bytes:
    """Encode a row as one line of JSON; equal rows give equal bytes."""
    text = json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate cannot be encoded
        return text.encode(errors="replace")


def decode(data: bytes) -> Row:
    """Decode one line to a JSON object.

    Raises:
        DamagedRowError: the line is not a JSON object, is nested too deeply, or contains a lone surrogate.
    """
    try:
        text = data.decode()
        row, end = _parse(text) if text.startswith("{") else (None, 0)
        if end < len(text) and text[end:] != "\n":
            row = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
        raise DamagedRowError(reason) from None
    if not isinstance(row, dict):
        raise DamagedRowError("not a JSON object")
    check_writable(row, text)
    return row


def check_writable(row: Mapping[str, Any], text: str) -> None:
    """Refuse an object that cannot be written again.

    Args:
        row: the object.
        text: the JSON that it was read from.

    Raises:
        DamagedRowError: it is nested too deeply, or holds a lone surrogate.
    """
    # Cheap checks first: depth needs that many brackets, and a lone surrogate needs an escape.
    if text.count("[") + text.count("{") > DEPTH and _depth(row) > DEPTH:
        raise DamagedRowError("nested too deeply")
    if "\\u" in text:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DamagedRowError("text with a lone surrogate") from None


_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]", re.ASCII)
"""Start of a cell that a spreadsheet may run as a formula; also with the full-width forms of the signs."""
_DIGITS = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(rf"{_DIGITS}(?: ?%)?(?: \[{_DIGITS}, {_DIGITS}\])?|-", re.ASCII)
"""What begins like a formula and is none: a number, one with its interval, the dash of an empty cell."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and line feed; ESC moves the cursor of a terminal."""
SUSPECT = r"^\s*[=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]|^[\t\r\n]|[\x00-\x08\x0b-\x1f\x{7f}-\x{9f}]"
"""Finds what `csv_cell` changes and a little more, for the RE2 expressions of pyarrow."""


def csv_cell(value: T) -> T:
    r"""A value for a CSV file; a text that a spreadsheet would run as a formula becomes a text that it shows.

    Questions, responses and names come from data sets and models. Such a text gets an apostrophe in front, which
    spreadsheets take as the mark of a text; control characters are written as `\x1b`. Values that are no text, and
    numbers as text, are left as they are.

    >>> csv_cell("=1+1"), csv_cell("-5"), csv_cell("a = b"), csv_cell(-5)
    ("'=1+1", '-5', 'a = b', -5)
    """
    if not isinstance(value, str):
        return value
    text = f"'{value}" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)  # type: ignore[return-value]


def _depth(value: object) -> int:
    """Nesting depth, counted up to `DEPTH` + 1."""
    level, values = 0, [value]
    while values and level <= DEPTH:
        inner: list[object] = []
        for one in values:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level, values = level + 1, inner
    return level


def unfinished_line(path: Path) -> bool:
    """Whether a JSONL file ends within a line, as a killed process, a full disk or a cut copy leaves it.

    A last line that is only without its line break is a row.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            size = 4096
            while True:
                file.seek(max(0, end - size))
                tail = file.read()
                if not tail or tail.endswith(b"\n"):
                    return False
                if b"\n" in tail or size >= end:
                    break
                size *= 4
        decode(tail.rpartition(b"\n")[2])
    except DamagedRowError:
        return True
    except OSError:
        return False
    return False


def read_lines(
    path: Path,
    make: Callable[[Row], T] | None = None,
    damaged: list[str] | None = None,
    wanted: Callable[[bytes], bool] | None = None,
    opened: Callable[[], IO[bytes]] | None = None,
) -> Iterator[Line[T]]:
    """Iterate over the readable rows of a JSONL file; a missing file has none.

    A damaged line (not a JSON object, or rejected by `make`) is reported with file and line number and skipped. An
    incomplete last line, as a killed process leaves it, is skipped without a report.

    Args:
        path: the file.
        make: converts the JSON object to a row; raises `DamagedRowError` for an invalid one, and `InvalidValueError`
            for one that this version of the package cannot read.
        damaged: list to append the reports to; None logs them as warnings.
        wanted: which lines are parsed; the others are skipped.
        opened: opens the file; None opens `path`.

    Raises:
        MissingFileError: the file exists but cannot be read.
        InvalidValueError: a row was written by a newer version of the package.
    """
    offset = 0
    try:
        file = path.open("rb") if opened is None else opened()
    except FileNotFoundError:
        return
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from error
    with file:
        number = 0
        while True:
            try:
                line = file.readline()
            except OSError as error:
                raise MissingFileError(f"cannot read {path}: {error.strerror}") from error
            if not line:
                return
            number += 1
            start, offset = offset, offset + len(line)
            if wanted is not None and not wanted(line):
                continue
            try:
                row = decode(line)
                made: Any = row if make is None else make(row)
            except DamagedRowError as error:
                if not line.endswith(b"\n"):
                    return
                sentence = f"{path}, line {number} is damaged ({error}): it is skipped"
                if damaged is None:
                    log.warning(sentence)
                else:
                    damaged.append(sentence)
                continue
            except InvalidValueError as error:
                raise InvalidValueError(f"{path}, line {number}: {error}") from None
            yield Line(number, start, made)

"""Files of the package: written whole or not at all, and JSON lines that are read whatever is in them."""

import errno
import fcntl
import json
import logging
import os
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
"""Suffix of a file that was set aside because some of its lines cannot be read."""
TEMPORARY = ".*.tmp"
"""Pattern of the files that `replaced` writes before it renames them."""
DEPTH = 64
"""Deepest nesting of a row; deeper ones would exhaust the stack of whoever writes them again."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
log = logging.getLogger("zoo_exp")
_parse = json.JSONDecoder().raw_decode


class DamagedRowError(ValueError):
    """A row that is JSON, but not of the kind that its file holds; the text says why."""


class Line(NamedTuple, Generic[T]):
    """A line of a file.

    Attributes:
        number: from 1.
        offset: bytes before it.
        row: what it holds.
    """

    number: int
    offset: int
    row: T


@contextmanager
def replaced(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path`, whole, when the block ends without an error.

    The temporary file is locked while it is written, so that `remove_leftovers` knows those of killed processes.

    Args:
        path: the target; its folder is made.
        sync: wait until the disk has it, so that it also survives a power failure.

    Raises:
        MissingFileError: the folder cannot be made or written to, or the disk is full.
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
            f"cannot write {path}: {error.strerror or error}. Make room, or give a folder that can be written to"
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
    """A new temporary file beside `path` that nobody else removes while it is open."""
    name = f".{path.name[:200]}.{socket.gethostname()}-{os.getpid()}.tmp"
    temporary = path.with_name(name)
    while True:
        file = temporary.open("wb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                return temporary, file
        file.close()  # `remove_leftovers` of another process was here between the two calls


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step; see `replaced`."""
    with replaced(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace a text file in one step: UTF-8, Unix line ends."""
    write_bytes(path, content.encode())


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files that killed processes left in a folder and below; how many."""
    count = 0
    for path in folder.rglob(TEMPORARY):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            count += 1
    return count


def set_aside(path: Path, *, move: bool = False) -> Path:
    """Keep a damaged file under a name that nothing reads, for people to look at.

    Args:
        path: the file.
        move: rename it; otherwise it is copied and stays in its place too.

    Returns:
        The new name.

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
    """A row as its line; the same row always gives the same bytes."""
    text = json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair is no character
        return text.encode(errors="replace")


def decode(data: bytes) -> Row:
    """The JSON object of a line.

    Raises:
        DamagedRowError: it is none, nested too deeply, or holds half of a surrogate pair.
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
    # Only a line with so many brackets can be that deep, and only an escape can hide half of a pair.
    if data.count(b"[") + data.count(b"{") > DEPTH and _depth(row) > DEPTH:
        raise DamagedRowError("nested too deeply")
    if b"\\u" in data:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DamagedRowError("text with half of a surrogate pair") from None
    return row


def _depth(value: object) -> int:
    """Levels of nesting, counted up to `DEPTH` + 1."""
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


def read_lines(
    path: Path, make: Callable[[Row], T] | None = None, damaged: list[str] | None = None
) -> Iterator[Line[T]]:
    """The rows of a file of JSON lines that can be read; a missing file has none.

    A damaged line is named, with its file and number, and left out: one that is no JSON object, or no row of the
    asked kind. A last line without its end that is damaged is what a killed process leaves behind: it is not named.

    Args:
        path: the file.
        make: turns an object into a row of the asked kind; it raises `DamagedRowError` where it is none, and
            `InvalidValueError` where this version of the package cannot read it.
        damaged: takes the sentences about damaged lines; None logs them as warnings.

    Raises:
        MissingFileError: the file is there and cannot be read.
        InvalidValueError: a row of a newer version of the package.
    """
    offset = 0
    try:
        file = path.open("rb")
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
            try:
                row = decode(line)
                made: Any = row if make is None else make(row)
            except DamagedRowError as error:
                if not line.endswith(b"\n"):
                    return
                sentence = f"{path}, line {number} is damaged ({error}): it is left out"
                if damaged is None:
                    log.warning(sentence)
                else:
                    damaged.append(sentence)
                continue
            except InvalidValueError as error:
                raise InvalidValueError(f"{path}, line {number}: {error}") from None
            yield Line(number, start, made)

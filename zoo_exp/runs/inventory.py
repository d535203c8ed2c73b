"""Which run folders there are, what is in them, and their removal. Reads no records, and follows no links."""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs import folder, lock, manifest
from zoo_exp.wording import counted

DEPTH = 3
"""Folders below the one that is searched: runs/NAME/ID is two levels below its parent."""


@dataclass(frozen=True)
class Entry:
    """One run folder.

    Attributes:
        path: the folder.
        name: name of the experiment.
        model: name of the model's configuration.
        arms: number of arms.
        tasks: number of tasks.
        when: time of its newest records (or of the manifest, without records).
        answers: recorded answers.
        expected: answers of the whole run, or None before every task has counted its questions.
        size: bytes of everything in it.
    """

    path: Path
    name: str
    model: str
    arms: int
    tasks: int
    when: datetime
    answers: int
    expected: int | None
    size: int


def entries(above: Path) -> tuple[list[Entry], list[str]]:
    """All run folders in `above`, newest first, and one note for each that cannot be read.

    Raises:
        MissingFileError: no such folder.
    """
    if not above.is_dir():
        raise MissingFileError(
            f"no folder {above}: give the parent of run folders (out=DIR of `run`; default: runs)"
        )
    found, notes = [], []
    for path in _run_folders(above, DEPTH):
        try:
            found.append(entry(path))
        except MissingFileError as error:
            notes.append(str(error))
    return sorted(found, key=lambda one: one.when, reverse=True), notes


def entry(run: Path) -> Entry:
    """What is known about one run folder.

    Raises:
        MissingFileError: its manifest cannot be read.
    """
    content = manifest.read(run)["experiment"]
    files = [*folder.recorded(run), folder.experiment(run)]
    newest = max(path.stat().st_mtime for path in (files[:-1] or files))
    return Entry(
        run,
        _plain(content["name"]),
        _plain(content["model"].get("name", "")),
        len(content["arms"]),
        len(content["tasks"]),
        datetime.fromtimestamp(newest),
        sum(map(_lines, folder.recorded(run))),
        _expected(run, content["tasks"], len(content["arms"])),
        size_of(run),
    )


def benches(above: Path) -> list[tuple[Path, datetime, int]]:
    """Output folders of `bench`, newest first: path, time of its newest folder, and size.

    They lie in the folder that a run of the same command has, which need not have been run.
    """
    found = []
    for path in above.glob("*/*/bench"):
        if path.is_dir() and not path.is_symlink():
            inside = [one.stat().st_mtime for one in path.iterdir()] or [path.stat().st_mtime]
            found.append((path, datetime.fromtimestamp(max(inside)), size_of(path)))
    return sorted(found, key=lambda one: one[1], reverse=True)


def size_of(run: Path) -> int:
    """Bytes of all files in a folder; a link counts as itself, not as what it leads to."""
    total = 0
    for place, _, files in os.walk(run, followlinks=False):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # removed in the meantime
                continue
    return total


def check_removable(run: Path) -> None:
    """Refuse everything that is not a run folder which nobody is writing to.

    Raises:
        MissingFileError: no such folder, or a folder without a manifest.
        InvalidValueError: a link, a folder that holds runs, or a run in progress.
    """
    if run.is_symlink():
        raise InvalidValueError(f"{run} is a link: give the folder that it leads to, {os.path.realpath(run)}")
    if not run.is_dir():
        raise MissingFileError(f"no folder {run}: list the runs with python -m zoo_exp list runs")
    if not folder.experiment(run).is_file():
        inside = list(_run_folders(run, DEPTH))
        hint = f"; it holds {counted(len(inside), 'run')}, such as {inside[0]}" if inside else ""
        raise InvalidValueError(f"{run} is not a run folder: it has no {folder.EXPERIMENT}{hint}")
    manifest.read(run)
    for path in sorted((run / folder.LOCKS).glob("*.lock")):
        holder = lock.holder(run, path.name.removesuffix(".lock"))
        if holder is not None:
            raise InvalidValueError(f"{run} is in use by {holder}: wait for it, or end it first")


def remove(run: Path) -> None:
    """Delete a run folder, its manifest last, so that what an interruption leaves can be deleted by the same command.

    Links in it are removed, not followed.

    Raises:
        MissingFileError: a file cannot be deleted.
    """
    check_removable(run)
    try:
        for path in sorted(run.iterdir()):
            if path == folder.experiment(run):
                continue
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
        folder.experiment(run).unlink()
        run.rmdir()
    except OSError as error:
        raise MissingFileError(f"cannot delete {error.filename or run}: {error.strerror or error}") from error


def bytes_text(size: float) -> str:
    """A size for people.

    >>> bytes_text(900), bytes_text(1_234_567), bytes_text(34_000_000_000)
    ('900 B', '1.2 MB', '34.0 GB')
    """
    if size < 1000:
        return f"{size:.0f} B"
    units = ["kB", "MB", "GB"]
    while size >= 1e6 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size / 1000:.1f} {units[0]}"


def _plain(value: object) -> str:
    """A name from a manifest, which may be somebody else's, without control characters."""
    return "".join(character if character.isprintable() else " " for character in str(value))[:80]


def _run_folders(above: Path, depth: int) -> Iterator[Path]:
    """Folders with a manifest, without those below them; links are not followed."""
    if folder.experiment(above).is_file():
        yield above
        return
    if depth == 0:
        return
    try:
        inside = sorted(path for path in above.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
    for path in inside:
        if not path.name.startswith("."):
            yield from _run_folders(path, depth - 1)


def _lines(path: Path) -> int:
    total = 0
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                total += block.count(b"\n")
    except OSError:
        return 0
    return total


def _expected(run: Path, tasks: Sequence[str], arms: int) -> int | None:
    total = 0
    for task in tasks:
        try:
            samples = json.loads(folder.cell(run, task).read_text(encoding="utf-8"))["samples"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if type(samples) is not int or samples < 0:
            return None
        total += samples * arms
    return total

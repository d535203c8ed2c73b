"""Rows of parquet files by number, reading one row group at a time: a folder of any size opens at once."""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.tasks.images import located

MAX_ROWS = 10_000_000
"""Rows of a split; a small file can claim any number of equal rows, which are all held in memory."""
SHARD = re.compile(r"(?P<name>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(-[0-9a-f]+)?\.parquet")
"""Name of one file of several, as `datasets` and the hub write it."""


class ParquetRows:
    """Rows of several parquet files with equal columns, as if they were one table.

    Args:
        paths: the files, in order.
        folders: where images may be that rows name by their paths.

    Raises:
        MissingFileError: a file is no readable parquet file.
        InvalidValueError: the files have no row or too many, or differ in their columns.
    """

    def __init__(self, paths: Sequence[Path], folders: Sequence[Path] = ()) -> None:
        import pyarrow.parquet as pq

        self.paths, self.folders = list(paths), tuple(folders)
        self._files = []
        for path in self.paths:
            with _clear_errors(f"{path} is no readable parquet file"):
                self._files.append(pq.ParquetFile(path))
        self.columns = list(self._files[0].schema_arrow.names)
        for path, file in zip(self.paths, self._files, strict=True):
            differs = set(self.columns) ^ set(file.schema_arrow.names)
            if differs:
                raise InvalidValueError(
                    f"{path} and {self.paths[0]} differ in the columns {', '.join(sorted(differs))}: "
                    "give each benchmark (and each of its parts) a folder of its own"
                )
        groups = [(f, g) for f, file in enumerate(self._files) for g in range(file.num_row_groups)]
        sizes = [self._files[f].metadata.row_group(g).num_rows for f, g in groups]
        self._groups, self._ends = groups, list(accumulate(sizes))
        if not self._ends or not self._ends[-1]:
            raise InvalidValueError(f"{self.paths[0]}: the file has no rows; download it again")
        if len(self) > MAX_ROWS:
            raise InvalidValueError(f"{self.paths[0]}: {len(self)} rows, but at most {MAX_ROWS:,} are read")
        self._group = lru_cache(maxsize=2)(self._read_group)

    def __len__(self) -> int:
        """Rows of all files."""
        return int(self._ends[-1])

    def _read_group(self, number: int) -> Any:
        file, group = self._groups[number]
        with _clear_errors(f"{self.paths[file]}: row group {group} is damaged"):
            return self._files[file].read_row_group(group)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One row as Python values; images stay encoded, and those named by a path become `ImageFile`."""
        group = bisect_right(self._ends, number)
        start = self._ends[group - 1] if group else 0
        with _clear_errors(f"{self.paths[self._groups[group][0]]}: row {number} is damaged"):
            row: dict[str, Any] = self._group(group).slice(number - start, 1).to_pylist()[0]
        return {
            name: located(value, self.folders) if is_image(name) else value for name, value in row.items()
        }

    def place_of(self, number: int) -> str:
        """The file of a row and its number there, for messages."""
        file = self._groups[bisect_right(self._ends, number)][0]
        before = sum(other.metadata.num_rows for other in self._files[:file])
        return f"{self.paths[file]}, row {number - before}"

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        return self._read([name], lambda table: table.column(name))

    def texts(self) -> list[dict[str, Any]]:
        """All rows without their images."""
        names = [name for name in self.columns if not is_image(name)]
        return self._read(names, lambda table: table)

    def _read(self, names: list[str], part: Callable[[Any], Any]) -> list[Any]:
        """Python values of some columns of all files; `part` takes a table."""
        values: list[Any] = []
        for path, file in zip(self.paths, self._files, strict=True):
            with _clear_errors(f"{path} is damaged"):
                values += part(file.read(names)).to_pylist()
        return values


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into one line that starts with `what`."""
    import pyarrow as pa

    try:
        yield
    except MissingFileError:
        raise
    # Arrow's own tree, and what the conversion to Python raises: text that is no UTF-8, dates out of range ...
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingFileError(f"{what} ({reason}); download it again") from error


def is_image(column: str) -> bool:
    """Whether a column holds images by its official name: `image`, or MMMU's `image_1` to `image_7`."""
    return re.fullmatch(r"image(_\d)?", column) is not None


def find_parquet(folder: Path, split: str, config: str | None) -> list[Path]:
    """The files of one split (and configuration) below a folder, in order.

    A folder that mirrors the hub has many: files in a folder named as the configuration win over others, and
    those whose name starts with the split over others. Files whose names say no split are taken as they are.

    Raises:
        MissingFileError: no parquet file at all, or one of a set (`test-00000-of-00003.parquet`) is missing.
        InvalidValueError: files of other splits only.
    """
    files = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    if not files:
        raise MissingFileError(f"no parquet file below {folder}")
    if config:
        files = [path for path in files if config in path.relative_to(folder).parts[:-1]] or files
        files = [path for path in files if path.name.startswith(f"{config}-")] or files
    chosen = [path for path in files if path.name.startswith((f"{split}-", f"{split}."))]
    if not chosen:
        splits = sorted({path.name.split("-")[0] for path in files if "-of-" in path.name})
        if splits:
            raise InvalidValueError(f"{folder} has the split(s) {', '.join(splits)}, but '{split}' is needed")
        chosen = files
    _check_shards(chosen)
    return chosen


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse a set of files of which some are missing: a part of a benchmark is not the benchmark.

    The names say how many there are. Sets are told apart by folder, name and count.
    """
    found: dict[tuple[Path, str, int], set[int]] = defaultdict(set)
    for path in files:
        match = SHARD.fullmatch(path.name)
        if match:
            found[path.parent, match["name"], int(match["count"])].add(int(match["number"]))
    for (folder, name, count), numbers in found.items():
        missing = count - len(numbers & set(range(min(count, MAX_ROWS))))
        if missing:
            first = next(number for number in range(count) if number not in numbers)
            raise MissingFileError(
                f"{folder} has {count - missing} of the {count} files {name}-*-of-{count:05}.parquet: "
                f"{name}-{first:05}-of-{count:05}.parquet is missing"
            )

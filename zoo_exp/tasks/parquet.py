"""Rows of parquet files by number, reading one row group at a time: a folder of any size opens at once."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError, MissingFileError


class ParquetRows:
    """Rows of several parquet files with equal columns, as if they were one table.

    Raises:
        MissingFileError: a file is no readable parquet file.
        InvalidValueError: the files have no row, or differ in their columns.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.paths = list(paths)
        self._files = []
        for path in self.paths:
            try:
                self._files.append(pq.ParquetFile(path))
            except (OSError, pa.ArrowInvalid) as error:
                raise MissingFileError(
                    f"{path} is no readable parquet file ({error}); download it again"
                ) from error
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
        self._group = lru_cache(maxsize=2)(self._read_group)

    def __len__(self) -> int:
        """Rows of all files."""
        return int(self._ends[-1])

    def _read_group(self, number: int) -> Any:
        import pyarrow as pa

        file, group = self._groups[number]
        try:
            return self._files[file].read_row_group(group)
        except (OSError, pa.ArrowInvalid) as error:
            raise MissingFileError(
                f"{self.paths[file]}: row group {group} is damaged ({error}); download the file again"
            ) from error

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One row as Python values; images stay encoded."""
        group = bisect_right(self._ends, number)
        start = self._ends[group - 1] if group else 0
        row: dict[str, Any] = self._group(group).slice(number - start, 1).to_pylist()[0]
        return row

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        return [value for file in self._files for value in file.read([name]).column(name).to_pylist()]

    def texts(self) -> list[dict[str, Any]]:
        """All rows without their images."""
        names = [name for name in self.columns if not is_image(name)]
        return [row for file in self._files for row in file.read(names).to_pylist()]


def is_image(column: str) -> bool:
    """Whether a column holds images by its official name: `image`, or MMMU's `image_1` to `image_7`."""
    return re.fullmatch(r"image(_\d)?", column) is not None


def find_parquet(folder: Path, split: str, config: str | None) -> list[Path]:
    """The files of one split (and configuration) below a folder, in order.

    A folder that mirrors the hub has many: files in a folder named as the configuration win over others, and
    those whose name starts with the split over others. Files whose names say no split are taken as they are.

    Raises:
        MissingFileError: no parquet file at all.
        InvalidValueError: files of other splits only.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise MissingFileError(f"no parquet file below {folder}")
    if config:
        files = [path for path in files if config in path.relative_to(folder).parts[:-1]] or files
        files = [path for path in files if path.name.startswith(f"{config}-")] or files
    chosen = [path for path in files if path.name.startswith((f"{split}-", f"{split}."))]
    if chosen:
        return chosen
    splits = sorted({path.name.split("-")[0] for path in files if "-of-" in path.name})
    if splits:
        raise InvalidValueError(f"{folder} has the split(s) {', '.join(splits)}, but '{split}' is needed")
    return files

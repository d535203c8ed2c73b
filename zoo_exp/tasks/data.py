"""Rows of a task: from the hub, from a folder of parquet files, or from inside the package."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, overload

from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.tasks.base import DataSource, Task
from zoo_exp.tasks.own_files import OwnFile
from zoo_exp.tasks.own_rows import OwnRows
from zoo_exp.tasks.parquet import ParquetRows, find_parquet, is_image


class Table(Protocol):
    """What a source of rows can do."""

    columns: list[str]

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...
    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        ...

    def texts(self) -> list[dict[str, Any]]:
        """All rows without their images."""
        ...


class Rows(Sequence[dict[str, Any]]):
    """The rows that a task keeps, each with its number in the split as `row`; images are not decoded.

    Args:
        table: All rows of the split.
        kept: Numbers of the rows that belong to the task.
        images: Where the images live elsewhere: their table, and the place in it of each image id.
    """

    def __init__(
        self, table: Table, kept: Sequence[int], images: tuple[Table, Mapping[str, int]] | None = None
    ) -> None:
        self.table, self.kept, self.images = table, kept, images

    def __len__(self) -> int:
        """How many rows the task has."""
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Rows":
        """A row in the official columns, or a part of the rows."""
        if isinstance(index, slice):
            return Rows(self.table, self.kept[index], self.images)
        number = self.kept[index]
        row = {**self.table[number], "row": number}
        if self.images:
            table, places = self.images
            if row["imageId"] not in places:
                raise MissingFileError(
                    f"row {number} shows the image '{row['imageId']}', which the images do not have"
                )
            row["image"] = table[places[row["imageId"]]]["image"]
        return row

    def texts(self) -> list[dict[str, Any]]:
        """All rows in order without their images."""
        texts = self.table.texts()
        return [{**texts[number], "row": number} for number in self.kept]

    def units(self, task: Task) -> list[object]:
        """The unit of every row: equal for rows that are scored together."""
        if task.unit_column is None:
            return list(self.kept)
        values = self.table.column(task.unit_column)
        return [task.unit(values[number]) for number in self.kept]

    def sample_ids(self, task: Task) -> list[str]:
        """The sample ids of all rows in order, without reading an image.

        Raises:
            InvalidValueError: two rows have the same id.
        """
        ids = [task.sample_id(row) for row in self.texts()]
        first: dict[str, int] = {}
        for place, name in enumerate(ids):
            if first.setdefault(name, place) != place:
                twice = len(ids) - len(set(ids))
                raise InvalidValueError(
                    f"{task.name}: {twice} rows have the sample id of another row; the first is row "
                    f"{self.kept[place]} with the id '{name[:100]}' of row {self.kept[first[name]]}. Each row needs "
                    "its own: download the data again, or remove one of the two"
                )
        return ids


def load(
    task: Task, root: Path | str | None = None, limit: int | None = None, *, fewer: bool = False
) -> Rows:
    """The task's rows.

    Args:
        task: The benchmark.
        root: Folder with a folder per benchmark (named as the task or its family) of parquet files in the
            official columns; None for the hub. The embedded benchmarks need neither.
        limit: The first so many units: rows, or groups of rows that score together (MME pairs, MMBench rotations).
        fewer: Whether a task with fewer units than the limit gives all of them; a user's own file always does.

    Raises:
        MissingFileError: the folder or the hub gives nothing readable; says what to download, and where to.
        InvalidValueError: a wrong split, missing columns, no rows, or a limit below 1 or (without `fewer`) above the
            number of units.
    """
    if limit is not None and limit < 1:
        raise InvalidValueError(f"limit={limit}: give 1 or more, or null for all")
    source = task.source
    images: tuple[Table, Mapping[str, int]] | None = None
    pictures: Table | None = None
    if source.kind == "embedded":
        table: Table = _embedded(task, limit)
    elif isinstance(task, OwnFile):
        table = task.rows(None if root is None else Path(root).expanduser())
    elif root is not None:
        table, pictures = _local(task, Path(root).expanduser())
    else:
        table, pictures = _hub(task)
    if pictures is not None:
        images = pictures, {str(name): place for place, name in enumerate(pictures.column("id"))}
    _check_columns(task, table, joined=images is not None)
    kept: Sequence[int] = range(len(table))
    if task.row_filter:
        column, value = task.row_filter
        kept = [number for number, found in enumerate(table.column(column)) if found == value]
    if not kept:
        raise InvalidValueError(f"{task.name}: the data has no row of this task")
    fewer = fewer or isinstance(task, OwnFile)
    return Rows(table, kept if limit is None else _first_units(task, table, kept, limit, fewer), images)


def expected_rows(task: Task, root: Path | str | None = None, limit: int | None = None) -> int | None:
    """Number of rows that `load` would give, without asking the hub; None if that is unknown.

    Args:
        task: The benchmark.
        root: Folder with the data; None for the number of rows of the official split.
        limit: The first so many units.
    """
    if task.source.kind != "hub" or root is not None:
        try:
            return len(load(task, root, limit))
        except ZooExpError:
            return None
    rows = task.source.rows
    return rows if rows is None or limit is None else min(rows, limit * task.rows_per_unit)


def check_images(task: OwnFile, root: Path | str | None, limit: int | None) -> None:
    """Check that the images of a user's own file exist, before a model is loaded.

    Raises:
        MissingFileError: an image is missing; names the line.
        InvalidValueError: a path that leads out of the folder.
    """
    rows = load(task, root, limit)
    table = rows.table
    for number in rows.kept if isinstance(table, OwnRows) and table.has_paths else ():
        row = table[number]
        row["image"].find(task.place(row))


def _first_units(task: Task, table: Table, kept: Sequence[int], limit: int, fewer: bool) -> Sequence[int]:
    """The rows of the first `limit` units, in the order of the data; a unit's rows need not be neighbours."""
    if not task.unit_column:
        units: list[object] = list(kept)
    else:
        values = table.column(task.unit_column)
        units = [task.unit(values[number]) for number in kept]
    order = dict.fromkeys(units)
    if limit > len(order) and not fewer:
        what = "units (groups of rows that score together)" if task.unit_column else "questions"
        raise InvalidValueError(
            f"{task.name} has {len(order)} {what}, fewer than limit={limit}: "
            f"give limit={len(order)} or less, or limit=null for all"
        )
    first = set(islice(order, limit))
    return [number for number, unit in zip(kept, units, strict=True) if unit in first]


def _check_columns(task: Task, table: Table, joined: bool) -> None:
    missing = [
        name for name in task.columns if name not in table.columns and not (joined and name == "image")
    ]
    if missing:
        raise InvalidValueError(
            f"{task.name}: the data lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(table.columns)}"
        )


class _Listed:
    """Rows in memory."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(rows[0]) if rows else []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def texts(self) -> list[dict[str, Any]]:
        return self.rows


def _embedded(task: Task, limit: int | None) -> Table:
    from zoo_exp.embedded import benchmarks

    # Making a scene takes time, so only those of the units are made.
    view = task.source.repo
    if view:
        from zoo_exp.embedded.world2.rows import rows_2

        rows = rows_2(task.family, task.source.split, view=view, units=limit)
    else:
        rows = benchmarks.rows(task.family, task.source.split, units=limit)
    if not rows:
        raise InvalidValueError(f"{task.name}: the package has no rows for it")
    return _Listed(rows)


def folder_of(task: Task, root: Path) -> Path:
    """The folder of a task's files below `root`.

    Raises:
        MissingFileError: there is none; says what to download, and where to.
    """
    folders = list(dict.fromkeys([root / task.name, root / task.family]))
    for folder in folders:
        if folder.is_dir():
            return folder
    looked = " and none ".join(map(str, folders))
    raise MissingFileError(f"{task.name}: no folder {looked}. {download_hint(task, root)}")


def _local(task: Task, root: Path) -> tuple[Table, Table | None]:
    source, folder = task.source, folder_of(task, root)
    try:
        table = ParquetRows(find_parquet(folder, source.split, source.config), (folder, root))
        if not source.images_config or "image" in table.columns:
            return table, None
        return table, ParquetRows(find_parquet(folder, source.split, source.images_config), (folder, root))
    except MissingFileError as error:
        raise MissingFileError(f"{task.name}: {error}. {download_hint(task, root)}") from error


class _Hub:
    """Rows of a `datasets` data set with encoded images."""

    def __init__(self, dataset: Any) -> None:
        from datasets import Image

        for name, feature in dataset.features.items():
            if isinstance(feature, Image):
                dataset = dataset.cast_column(name, Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), Image):
                dataset = dataset.cast_column(name, type(feature)(Image(decode=False)))
        self.dataset = dataset
        self.columns: list[str] = list(dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self.dataset[number]
        return row

    def column(self, name: str) -> list[Any]:
        return list(self.dataset[name])

    def texts(self) -> list[dict[str, Any]]:
        return list(self.dataset.select_columns([name for name in self.columns if not is_image(name)]))


def _hub(task: Task) -> tuple[Table, Table | None]:
    source = task.source
    table = _Hub(_download(task, source, source.config))
    return table, _Hub(_download(task, source, source.images_config)) if source.images_config else None


def _download(task: Task, source: DataSource, config: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(source.repo, config, split=source.split, revision=source.revision)
    except Exception as error:  # every library below has its own family of network errors
        raise MissingFileError(
            f"{task.name}: {source.repo} (configuration {config or 'default'}, split {source.split}, "
            f"revision {source.revision}) did not load from the hub: {type(error).__name__}: {error}. "
            f"{download_hint(task, Path('DIR'))}"
        ) from error


def download_hint(task: Task, root: Path) -> str:
    """What to type to get the task's data into a folder, and to use it from there."""
    return (
        f"On a machine with a network: hf download {task.source.repo} --repo-type dataset "
        f"--revision {task.source.revision} --local-dir {root / task.family}; then data.root={root} "
        f"(python -m zoo_exp data check {task.name} --root {root} verifies it)"
    )

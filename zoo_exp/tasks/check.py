"""Is a folder of data what a task needs? Rows with ids of their own, columns, a checksum, one image that opens."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.tasks.base import Doc, Task
from zoo_exp.tasks.columns import check_columns
from zoo_exp.tasks.data import Rows, load
from zoo_exp.tasks.own_files import OwnFile
from zoo_exp.tasks.own_rows import OwnRows
from zoo_exp.tasks.parquet import ParquetRows


@dataclass(frozen=True)
class DataReport:
    """Result of `check`.

    Attributes:
        task: name of the task.
        rows: number of rows of the task.
        expected_rows: rows of the official split, None if unknown.
        columns: columns of the rows.
        checksum: sha256 over the sha256 of every file, in order; empty for sources without files.
        files: number of files.
        image_size: width and height in pixels of the first row's first image.
        decoded: number of rows whose images were decoded.
    """

    task: str
    rows: int
    expected_rows: int | None
    columns: Sequence[str]
    checksum: str
    files: int
    image_size: tuple[int, int]
    decoded: int = 1

    @property
    def complete(self) -> bool:
        """Whether all official rows are present, or their number is unknown."""
        return self.expected_rows in (None, self.rows)


def check(task: Task, root: Path | str | None = None) -> DataReport:
    """Load a task's data, look at every row without its images, and decode one image; of a user's own file, all.

    Raises:
        MissingFileError: files are missing or damaged, an image does not open.
        InvalidValueError: a wrong split, missing columns, no rows, values of a wrong type, two rows with one id.
    """
    rows = load(task, root)
    for row in rows.texts():
        check_row(task, row)
    rows.sample_ids(task)
    image = task.images(rows[0])[0]
    decoded = len(rows) if isinstance(task, OwnFile) else 1
    for number in range(1, decoded):
        task.images(rows[number])
    paths = _paths(rows)
    return DataReport(
        task.name,
        len(rows),
        task.source.rows,
        tuple(rows[0]),
        _checksum(paths),
        len(paths),
        (image.width, image.height),
        decoded,
    )


def check_row(task: Task, doc: Doc) -> None:
    """Refuse a row that could not be asked, or whose response could not be recorded.

    Args:
        task: the benchmark.
        doc: the row; images are not looked at.

    Raises:
        InvalidValueError: a value of a wrong type, or values that do not go together; names sample and column.
    """
    faults = (TypeError, ValueError, AttributeError, LookupError)
    try:
        where = f"{task.name}, sample {task.sample_id(doc)}"
    except faults:
        where = f"{task.name}, row {doc.get('row', '?')}"
    check_columns(task.kinds, doc, where)
    try:
        task.prompt(doc, "")
        task.reference(doc)
        task.image_name(doc)
    except faults as error:
        told = error if isinstance(error, ZooExpError) else f"{type(error).__name__}: {error}"
        raise InvalidValueError(f"{where}: the row cannot be asked ({told})") from error


def _paths(rows: Rows) -> list[Path]:
    tables = [rows.table, *(rows.images or ())[:1]]
    return [path for table in tables if isinstance(table, ParquetRows | OwnRows) for path in table.paths]


def _checksum(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    whole = sha256()
    for path in paths:
        one = sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                one.update(block)
        whole.update(one.digest())
    return whole.hexdigest()

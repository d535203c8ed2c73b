"""Rows of a user's own task file: JSONL, CSV or parquet, checked row by row; errors name the line.

Columns: `image` (a path relative to the file, or encoded bytes in parquet), `question`, and `answer`, `answers`, or
`options` with `answer`; optional are `id`, `group` and `image_id`. Others are ignored.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import DamagedRowError, check_writable
from zoo_exp.tasks.columns import ANSWERS, CHOICES, ID, TEXT, Kind
from zoo_exp.tasks.images import located
from zoo_exp.tasks.parquet import MAX_ROWS, ParquetRows

METRICS = {
    "exact_match": "the answer, or one of the answers, ignoring case and punctuation",
    "vqa_accuracy": "soft accuracy over the annotators' answers",
    "multiple_choice": "the right option, by its letter or its text",
}
COLUMNS = ("image", "question", "answer", "answers", "options", "id", "group", "image_id")
ANNOTATORS = 4
"""Smallest number of answers for which an unanimous one scores 1 in VQA accuracy."""
MOST_EXACT = 2**53
"""Floats below it that have no fraction are whole numbers."""
HOW = (
    "a task file has the columns image, question, and answer, answers (a list), or options (a list) with answer; "
    "optional id, group, image_id (docs/adding_a_task.md)"
)
_KINDS: dict[str, Kind] = {
    "question": TEXT,
    "answer": TEXT,
    "answers": ANSWERS,
    "options": CHOICES,
    "id": ID,
    "group": ID,
    "image_id": ID,
}


class OwnRows:
    """All rows of a task file; images are read on demand.

    Args:
        path: the file.
        metric: one of `METRICS`; empty for the one that the columns suggest.
        root: a second folder that images may be in (`data.root`).

    Attributes:
        metric: as given or suggested.
        columns: columns of the rows.
        paths: the file, for checksums.

    Raises:
        MissingFileError: the file cannot be read.
        InvalidValueError: missing columns, no rows, or a row that cannot be asked; names the line.
    """

    def __init__(self, path: Path, metric: str = "", root: Path | None = None) -> None:
        self.path, self.paths = path, [path]
        self.folders = [path.absolute().parent, *([root] if root else [])]
        self._parquet: ParquetRows | None = None
        self.word = "line"
        if path.suffix.lower() == ".parquet":
            self.word = "row"
            self._parquet = ParquetRows([_readable(path)], self.folders)
            given: Iterator[tuple[int, Mapping[str, Any]]] = enumerate(self._of_parquet(self._parquet))
        elif path.suffix.lower() == ".csv":
            given = _of_csv(path)
        else:
            given = _of_jsonl(path)
        self.rows: list[dict[str, Any]] = []
        self.lines: list[int] = []
        for line, row in given:
            kept = {name: row[name] for name in COLUMNS if not _missing(row.get(name))}
            self.rows.append({**kept, "line": line, "has": _names(row)})
            if len(self.rows) > MAX_ROWS:
                raise InvalidValueError(f"{path}: more than {MAX_ROWS:,} rows")
        if not self.rows:
            raise InvalidValueError(f"{path} has no rows: {HOW}")
        self.metric = metric or _suggested(self.rows)
        self._check()
        self.columns = [name for name in COLUMNS if any(name in row for row in self.rows)]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One row with its image: a path bound to the folders that it may be in, or encoded bytes."""
        row = self.rows[number]
        image = row["image"] if self._parquet is None else self._parquet[number]["image"]
        return {**row, "image": located(image, self.folders, own=True)}

    @property
    def has_paths(self) -> bool:
        """Whether the rows name images by their paths."""
        return self._parquet is None or isinstance(self.rows[0]["image"], str)

    def column(self, name: str) -> list[Any]:
        """One column of all rows; None where a row lacks it."""
        return [row.get(name) for row in self.rows]

    def texts(self) -> list[dict[str, Any]]:
        """All rows without their images."""
        return [{name: value for name, value in row.items() if name != "image"} for row in self.rows]

    def _of_parquet(self, table: ParquetRows) -> Iterator[dict[str, Any]]:
        """Rows without stored bytes: an image is its path, or a mark that there is one."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = table.texts()
        if "image" not in table.columns:
            yield from texts
            return
        kind = pq.read_schema(self.path).field("image").type
        paths = table.column("image") if pa.types.is_string(kind) else [b"stored"] * len(texts)
        for row, image in zip(texts, paths, strict=True):
            yield {**row, "image": image}

    def _check(self) -> None:
        """Check every row, and fill in ids.

        Raises:
            InvalidValueError: names the line.
        """
        first: dict[str, int] = {}
        for place, row in enumerate(self.rows):
            line, has = row["line"], row.pop("has")
            where = f"{self.path.name}, {self.word} {line}"
            _check_row(row, self.metric, where, has)
            name = str(row.setdefault("id", place + 1))
            if first.setdefault(name, line) != line:
                raise InvalidValueError(
                    f"{where}: the id {name[:100]!r} is also used in {self.word} {first[name]}; ids must be unique"
                )
            row["id"] = name
            if "image_id" not in row:
                row["image_id"] = row["image"] if isinstance(row["image"], str) else name
            row["image_id"] = str(row["image_id"])


def _check_row(row: dict[str, Any], metric: str, where: str, has: str) -> None:
    """Check the values of one row; lists and numbers are converted.

    Raises:
        InvalidValueError: a missing column, or a value of another kind.
    """
    needed = {
        "exact_match": ("image", "question", "answers" if "answers" in row else "answer"),
        "vqa_accuracy": ("image", "question", "answers"),
        "multiple_choice": ("image", "question", "options", "answer"),
    }[metric]
    missing = [name for name in needed if name not in row]
    if missing:
        raise InvalidValueError(
            f"{where}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or empty "
            f"(task.metric={metric}; the row has {has[:200]}). In general, {HOW}"
        )
    if metric != "multiple_choice":
        row.update(_as_text(row))
    for name, kind in _KINDS.items():
        if name in row and not kind.fits(row[name]):
            shown = " ".join(repr(row[name])[:60].split())
            raise InvalidValueError(f"{where}: {name} must be {kind.words}, got {shown}")
    image = row["image"]
    if not isinstance(image, str | bytes):
        raise InvalidValueError(
            f"{where}: image must be the path of a file, got {type(image).__name__}; encoded bytes need a parquet file"
        )
    if isinstance(image, str) and image.partition("://")[0] in ("http", "https", "file", "s3"):
        raise InvalidValueError(f"{where}: images are not downloaded: image must be the path of a file")
    if metric == "vqa_accuracy" and len(row["answers"]) < ANNOTATORS:
        raise InvalidValueError(
            f"{where}: VQA accuracy needs the answers of at least {ANNOTATORS} annotators, got {len(row['answers'])}; "
            "task.metric=exact_match accepts any of the answers"
        )
    if metric == "exact_match" and "answers" in row and not row["answers"]:
        raise InvalidValueError(f"{where}: answers is an empty list")
    if metric == "multiple_choice":
        right_option(row["options"], row["answer"], where)


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    """The answer of a row as text, where it is a number: 3 and 3.0 are "3"."""
    answer = row.get("answer")
    if isinstance(answer, float) and answer.is_integer() and abs(answer) < MOST_EXACT:
        answer = int(answer)
    return {"answer": str(answer)} if type(answer) in (int, float) else {}


def right_option(options: Sequence[str], answer: str, where: str) -> int:
    """Place of the right option: the one that reads like the answer, or the one with that letter.

    Raises:
        InvalidValueError: there is none, or several options read like the answer.
    """
    places = [place for place, option in enumerate(options) if option.strip() == answer.strip()]
    if len(places) > 1:
        raise InvalidValueError(f"{where}: several options are {answer[:60]!r}")
    if places:
        return places[0]
    letter = answer.strip().upper()
    if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(options):
        return ord(letter) - ord("A")
    last = chr(ord("A") + len(options) - 1)
    raise InvalidValueError(
        f"{where}: answer {answer[:60]!r} is neither an option nor an option's letter (A to {last})"
    )


def _names(row: Mapping[Any, Any]) -> str:
    """Columns of a row for a message: untrusted text in one line."""
    text = ", ".join(map(str, row)) or "nothing"
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _suggested(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric that the columns suggest."""
    if any("options" in row for row in rows):
        return "multiple_choice"
    return "vqa_accuracy" if any("answers" in row for row in rows) else "exact_match"


def _missing(value: object) -> bool:
    """Whether a cell is empty: null, NaN, or blank text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _readable(path: Path) -> Path:
    """The path of a file that can be opened.

    Raises:
        MissingFileError: it cannot.
    """
    _read(path, 0)
    return path


def _read(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise MissingFileError(f"task file {path} cannot be read: {error.strerror or error}") from error


def _of_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line; blank lines are skipped."""
    for line, raw in enumerate(_read(path).split(b"\n"), start=1):
        where = f"{path.name}, line {line}"
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InvalidValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
        if not text:
            continue
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise DamagedRowError(
                    f"not a JSON object; one object per line is expected, got {text[:60]!r}"
                )
            check_writable(row, text)
        except DamagedRowError as error:
            raise InvalidValueError(f"{where}: {error}") from None
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"
            raise InvalidValueError(f"{where}: {reason}") from None
        yield line, row


def _of_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the first line and cells of each row; `answers` and `options` are JSON lists."""
    data = _read(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidValueError(
            f"{path.name}, line {line}: not UTF-8 ({error.reason}); save the table as CSV UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 0
    try:
        head = [name.strip() for name in next(reader, [])]
        if len(head) == 1 and any(mark in head[0] for mark in ";\t"):
            raise InvalidValueError(f"{path.name}, line 1: the columns must be separated by commas")
        twice = [name for name in COLUMNS if head.count(name) > 1]
        if twice:
            raise InvalidValueError(f"{path.name}, line 1: the column {twice[0]} occurs twice")
        line = reader.line_num + 1
        for cells in reader:
            where, here = f"{path.name}, line {line}", line
            line = reader.line_num + 1
            if not any(cells):
                continue
            if len(cells) > len(head):
                raise InvalidValueError(
                    f"{where}: {len(cells)} cells, but {len(head)} columns; quote text that has commas"
                )
            row: dict[str, Any] = dict(zip(head, cells, strict=False))
            for name in ("answers", "options"):
                if not _missing(row.get(name)):
                    row[name] = _list(row[name], f"{where}: {name}")
            yield here, row
    except csv.Error as error:
        raise InvalidValueError(f"{path.name}, line {line}: no valid CSV ({error})") from None


def _list(text: str, where: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise InvalidValueError(f'{where} must be a JSON list such as ["red", "blue"], got {text[:60]!r}')
    return found

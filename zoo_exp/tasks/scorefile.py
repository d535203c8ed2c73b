"""Score a file of `{"doc": {...}, "response": "..."}` lines, without a model."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.files import DamagedRowError, check_writable, write_text
from zoo_exp.tasks.base import UNREADABLE, Task
from zoo_exp.tasks.scoring.yes_no import UnpairedError

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """One line of a predictions file; `line` is its number from 1."""

    line: int
    doc: dict[str, Any]
    response: str


@dataclass(frozen=True)
class ScoredFile:
    """A scored predictions file.

    Attributes:
        task: name of the task.
        metrics: metric -> value over all rows.
        breakdown: group -> metric -> value (categories, subjects).
        rows: `sample_id`, `image_id` and score parts of each row, in the order of the file.
        answer_form: of the task; unreadable responses lack it.
    """

    task: str
    metrics: dict[str, float]
    breakdown: dict[str, dict[str, float]]
    rows: list[dict[str, Any]]
    answer_form: str = ""

    @property
    def unreadable(self) -> int:
        """Number of responses without an answer of the task's form."""
        return sum(bool(row.get(UNREADABLE)) for row in self.rows)

    def to_json(self) -> str:
        """One line `{"task": ..., "n": ..., "metrics": {...}}`."""
        return json.dumps({"task": self.task, "n": len(self.rows), "metrics": self.metrics})


def read_predictions(path: Path | str) -> list[Prediction]:
    """Read the rows of a predictions file; blank lines are skipped.

    Raises:
        MissingFileError: the file cannot be read.
        InvalidValueError: a line is not UTF-8, not JSON, incomplete, or lacks a `doc` or a string `response` (the
            message contains the line number); or there are no rows.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = content.split(b"\n")
    rows = []
    for number, raw in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InvalidValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
        if text:
            rows.append(_prediction(number, text, where, last=number == len(lines)))
    if not rows:
        raise InvalidValueError(f'{path}: no rows; each line must be {{"doc": {{...}}, "response": "..."}}')
    return rows


def _prediction(number: int, text: str, where: str, last: bool) -> Prediction:
    try:
        row = json.loads(text)
    except ValueError as error:
        half = " The last line has no line break: it is incomplete." if last else ""
        raise InvalidValueError(f"{where}: not JSON ({error}).{half}") from None
    except RecursionError:
        raise InvalidValueError(f"{where}: nested too deeply") from None
    if not isinstance(row, dict) or not isinstance(row.get("doc"), dict):
        raise InvalidValueError(f'{where}: expected {{"doc": {{...}}, "response": "..."}}, got {text[:80]}')
    if not isinstance(row.get("response"), str):
        got = type(row["response"]).__name__ if "response" in row else "nothing"
        raise InvalidValueError(f"{where}: the response must be a string, got {got}")
    try:
        check_writable(row, text)
    except DamagedRowError as error:
        raise InvalidValueError(f"{where}: {error}") from None
    return Prediction(number, row["doc"], row["response"])


def score_file(task: Task, path: Path | str) -> ScoredFile:
    """Score every row of a predictions file.

    Args:
        task: the task.
        path: the predictions file.

    Raises:
        MissingFileError: the file cannot be read.
        InvalidValueError: an invalid line, duplicate sample ids, or incomplete MME pairs.
    """
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    for place, prediction in enumerate(read_predictions(path)):
        where = f"{path}, line {prediction.line}"
        doc = {**prediction.doc, "row": place}
        parts = _named(where, lambda doc=doc, response=prediction.response: task.score(doc, response))  # type: ignore[misc]
        sample_id, image_id = _ids(task, doc, prediction.line)
        if sample_id in lines:
            raise InvalidValueError(
                f"{where}: the sample id '{sample_id}' is also used in line {lines[sample_id]}; "
                "ids must be unique"
            )
        lines[sample_id] = prediction.line
        rows.append({"sample_id": sample_id, "image_id": image_id, **parts})
    try:
        metrics = task.aggregate(rows)
    except UnpairedError as error:
        alone = [
            str(lines[row["sample_id"]])
            for row in rows
            if (row["category"], row["image"]) == (error.category, error.image)
        ]
        raise InvalidValueError(f"{path}, line {', '.join(alone)}: {error}") from error
    return ScoredFile(task.name, metrics, task.breakdown(rows), rows, task.answer_form)


def write_per_sample(path: Path | str, scored: ScoredFile) -> None:
    """Write one JSON line per row: sample id, image id, score parts."""
    write_text(Path(path), "".join(json.dumps(row) + "\n" for row in scored.rows))


def _ids(task: Task, doc: dict[str, Any], line: int) -> tuple[str, str]:
    """Sample id and image id; a row without an id column is identified by its line number."""
    try:
        return task.sample_id(doc), task.image_name(doc)
    except KeyError:
        return f"line {line}", f"line {line}"


def _named(where: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except ZooExpError as error:
        raise InvalidValueError(f"{where}: {error}") from error

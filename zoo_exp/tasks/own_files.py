"""A task from a user's own file of images and questions: `task=my.jsonl`, or .csv, or .parquet.

The task is named after the file. Its source holds the hash of the file's content, so that an edited file is asked
again; images that the file names by their paths are not part of the hash.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.tasks import columns as kind
from zoo_exp.tasks.base import (
    LETTER_ANSWER,
    LETTERS,
    SHORT_ANSWER,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Task,
    option_lines,
)
from zoo_exp.tasks.group_accuracy import accuracy_by
from zoo_exp.tasks.images import decode_image
from zoo_exp.tasks.own_rows import METRICS, OwnRows, right_option
from zoo_exp.tasks.scale import ANSWERS, FRACTION, Scale
from zoo_exp.tasks.scoring.evalai import normalize_vqa
from zoo_exp.tasks.scoring.text import exact_match
from zoo_exp.tasks.scoring.vqa import answer_texts, soft_accuracy

if TYPE_CHECKING:
    from PIL.Image import Image

_NAME = re.compile(r"(?P<path>.*\.(?:jsonl|csv|parquet))(?::(?P<metric>.*))?", re.DOTALL | re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:)]?|\(?([A-Z])\)?[.:)].*", re.DOTALL)
"""A letter alone, or a capital letter with a mark behind it and more text."""
_opened: "dict[str, OwnFile]" = {}


@dataclass(frozen=True)
class OwnFile(Task):
    """Questions about a user's own images; the score of a question is between 0 and 1.

    Attributes:
        path: the file; None for a task that is known by its name only, as in the report on an earlier run.
    """

    path: Path | None = None

    family = "own_file"
    summary = "questions of your own file"
    columns = ("image", "question")
    scored_columns = ()
    kinds: ClassVar[kind.Columns] = {"question": kind.TEXT, "answers": kind.ANSWERS}
    generation = GenerationSettings(16)
    main_metric = "accuracy"
    ending: ClassVar[str] = SHORT_ANSWER

    def rows(self, root: Path | None = None) -> OwnRows:
        """Read and check the file; a task without one looks for it in the current folder.

        Raises:
            MissingFileError: the file cannot be read.
            InvalidValueError: see `OwnRows`.
        """
        if self.path is not None:
            return OwnRows(self.path, self.source.config or "", root)
        here = Path(self.name)
        if not here.is_file():
            raise MissingFileError(
                f"the file of task {self.name} is not in the current folder: change to the folder that has it"
            )
        # The metric of the earlier run is not known; this one accepts the rows of all.
        return OwnRows(here, "exact_match", root)

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The unchanged question and an answer instruction."""
        return f"{doc['question']}{'' if model_family == 'embedded' else self.ending}"

    def sample_id(self, doc: Doc) -> str:
        """The row's id, or its number in the file from 1."""
        return str(doc["id"])

    def image_id(self, doc: Doc) -> str:
        """The row's image id, its path, or the row's own id."""
        return str(doc.get("image_id") or self.sample_id(doc))

    def image_key(self, image: str) -> str:
        """Images of two files are different ones."""
        return f"{self.name}/{image}"

    def images(self, doc: Doc) -> "list[Image]":
        """The image in RGB."""
        return [decode_image(doc["image"], self.place(doc))]

    def place(self, doc: Doc) -> str:
        """File and line of a row, for messages."""
        return f"{self.name}, {'row' if self.name.lower().endswith('.parquet') else 'line'} {doc['line']}"

    def reference(self, doc: Doc) -> str:
        """The answer, or the most frequent one."""
        if "answers" in doc:
            return Counter(answer_texts(doc["answers"])).most_common(1)[0][0]
        return str(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        parts: Parts = {"score": self.score_of(doc, response)}
        return parts | ({"group": str(doc["group"])} if doc.get("group") is not None else {})

    def score_of(self, doc: Doc, response: str) -> float:
        """The score of a response, 0 to 1: exact match with the answer or one of the answers."""
        accepted = answer_texts(doc["answers"]) if doc.get("answers") else [str(doc["answer"])]
        return max(exact_match(response, answer.strip()) for answer in accepted)

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Accuracy and number of questions of each group."""
        return accuracy_by(rows, "group")

    def detail_scale(self, metric: str) -> Scale:
        """Accuracy, and the number of questions."""
        return ANSWERS if metric == "n" else FRACTION


@dataclass(frozen=True)
class OwnAnnotated(OwnFile):
    """Soft accuracy over the annotators' answers, as in VQAv2."""

    summary = "questions of your own file, VQA accuracy"
    scored_columns = ("answers",)

    def score_of(self, doc: Doc, response: str) -> float:
        """Soft accuracy (see `scoring.vqa`)."""
        return soft_accuracy(response, answer_texts(doc["answers"]), normalize_vqa)


@dataclass(frozen=True)
class OwnChoice(OwnFile):
    """The right option, given by its letter or its text."""

    summary = "questions of your own file, multiple choice"
    scored_columns = ("options", "answer")
    kinds: ClassVar[kind.Columns] = {"question": kind.TEXT, "answer": kind.TEXT, "options": kind.CHOICES}
    ending = LETTER_ANSWER
    answer_form = "an option or its letter"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Question, options with their letters, and an answer instruction."""
        return super().prompt(
            {"question": f"{doc['question']}\n{option_lines(doc['options'])}"}, model_family
        )

    def reference(self, doc: Doc) -> str:
        """Letter and text of the right option."""
        place = right_option(doc["options"], doc["answer"], self.name)
        return f"{LETTERS[place]}. {doc['options'][place]}"

    def score_of(self, doc: Doc, response: str) -> float:
        """1 for a response that is the option's text (ignoring case and punctuation), or begins with its letter."""
        right = right_option(doc["options"], doc["answer"], self.name)
        return float(right in _named(doc["options"], response))

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether it is an option's text, or begins with the letter of one."""
        return bool(_named(doc["options"], response))


def _named(options: Sequence[str], response: str) -> list[int]:
    """Places of the options that a response names: by their text, else by a letter."""
    by_text = [place for place, option in enumerate(options) if exact_match(response, option.strip())]
    letter = _LETTER.fullmatch(response)
    if by_text or letter is None:
        return by_text
    place = LETTERS.index((letter[1] or letter[2]).upper())
    return [place] if place < len(options) else []


_KINDS = {"exact_match": OwnFile, "vqa_accuracy": OwnAnnotated, "multiple_choice": OwnChoice}


def is_own_file(name: str) -> bool:
    """Whether a task's name is that of a file: `my.jsonl`, `folder/my.csv:exact_match`."""
    return _NAME.fullmatch(name) is not None


def with_metric(name: str, metric: str) -> str:
    """The name of a file with a metric (`task.metric=`), unless it has one."""
    found = _NAME.fullmatch(name)
    return name if found is None or found["metric"] else f"{found['path']}:{metric}"


def open_file(name: str) -> OwnFile:
    """The task of a file, which is read and checked.

    Args:
        name: `FILE` or `FILE:METRIC`; the path is relative to the current folder.

    Raises:
        MissingFileError: the file cannot be read.
        UnknownNameError: unknown metric.
        InvalidValueError: the file has missing columns, no rows or an unusable row; or another file of that name is
            in use.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidValueError(f"task '{name}' is no task file: give FILE.jsonl, FILE.csv or FILE.parquet")
    path, metric = Path(found["path"]).expanduser().absolute(), found["metric"] or ""
    if metric and metric not in METRICS:
        raise UnknownNameError("metric of a task file", metric, METRICS)
    before = _opened.get(path.name)
    if before is not None and before.path != path and before.path is not None and before.path.exists():
        raise InvalidValueError(
            f"the task files {before.path} and {path} have one name, which tables would confuse: rename one"
        )
    try:
        stat = path.stat()
    except OSError as error:
        raise MissingFileError(f"task file {found['path']} cannot be read: {error.strerror}") from None
    if not path.is_file():
        raise MissingFileError(f"task file {found['path']} is no file")
    content, suggested = _looked_at(path, metric, stat.st_mtime_ns, stat.st_size)
    source = DataSource(path.name, "", suggested, revision=content, kind="file")
    task = _KINDS[suggested](path.name, source, path)
    _opened[path.name] = task
    return task


@lru_cache(maxsize=64)
def _looked_at(path: Path, metric: str, modified_ns: int, size: int) -> tuple[str, str]:
    """Hash of a file's content, and its metric; the rows are checked once per version of the file."""
    chosen = OwnRows(path, metric).metric
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), chosen


def known(name: str) -> OwnFile:
    """The task of a file that was opened in this process, or one without a file, for reports on earlier runs."""
    source = DataSource(name, "", None, kind="file")
    return _opened.get(name) or OwnFile(name, source)

"""MMMU: college questions with up to seven images, multiple choice and open."""

import ast
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.base import (
    LETTER_ANSWER,
    LETTERS,
    OPTION_LETTER,
    SHORT_ANSWER,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Tally,
    Task,
    embedded,
    option_lines,
    ratio,
)
from zoo_exp.tasks.columns import MOST_OPTIONS, OPTIONS, TEXT, TEXT_OR_TEXTS, Columns, OneOf
from zoo_exp.tasks.group_accuracy import accuracy_by
from zoo_exp.tasks.images import decode_image
from zoo_exp.tasks.scale import ANSWERS, FRACTION, Scale

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES_FIRST = ("qwen3_vl", "llava_code")
"""Models that get all images, then the text with its markers; `llava_code` is LLaVA's own code."""
_MARKER = re.compile(r"<image (\d+)>")
_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


@dataclass(frozen=True)
class MMMU(Task):
    """Accuracy; a choice that cannot be parsed is replaced by a random one (lmms-eval, lmms_eval/tasks/mmmu).

    The random choice is seeded by the sample id, so that it is the same for every arm and run.
    """

    family = "mmmu"
    summary = "college exam questions; an unreadable choice is drawn by a seed per sample"
    embedded_summary = "numbers and counts, multiple choice; an unreadable choice is drawn by a seed"
    columns = ("id", "question", "options", "answer", "question_type", "image_1")
    scored_columns = ("id", "options", "answer", "question_type")
    kinds: ClassVar[Columns] = {
        **{"id": TEXT, "question": TEXT, "options": OPTIONS, "answer": TEXT_OR_TEXTS},
        "question_type": OneOf(("multiple-choice", "open")),
    }
    generation = GenerationSettings(128)
    main_metric = "mmmu_acc"
    answer_form = OPTION_LETTER

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Question and options with their image markers, and an answer instruction."""
        options = option_lines(self._options(doc))
        choice = doc["question_type"] == "multiple-choice"
        if model_family == "embedded":
            text = f"{doc['question']}\n{options}" if choice else str(doc["question"])
            return re.sub(r" {2,}", " ", _MARKER.sub("", text)).strip()
        if model_family == "qwen3_vl":
            ending = "Answer with the option letter only."
            ending = ending if choice else "Please select the correct answer from the options above."
            return f"Question: {doc['question']}\nOptions:\n{options}\n{ending}"
        if choice:
            return f"{doc['question']}\n{options}\n{LETTER_ANSWER}"
        return f"{doc['question']}\n{SHORT_ANSWER}"

    def images(self, doc: Doc) -> "list[Image]":
        """The images referenced by question and options, sorted by number."""
        text = doc["question"]
        if doc["question_type"] == "multiple-choice":
            text = f"{text} {' '.join(self._options(doc))}"
        numbers = sorted({int(n) for n in _MARKER.findall(text)})
        where = f"{self.name}, sample {self.sample_id(doc)}"
        self.require(doc, [f"image_{n}" for n in numbers])
        return [decode_image(doc[f"image_{n}"], f"{where}, image {n}") for n in numbers]

    def content(self, doc: Doc, model_family: str) -> "list[str | Image]":
        """Texts separated by the markers, with images in between, ordered by number as in the reference.

        If a marker is repeated, there are more gaps than images, and the remaining texts are dropped.
        """
        images, prompt = self.images(doc), self.prompt(doc, model_family)
        if model_family in IMAGES_FIRST:
            return [*images, prompt]
        texts = [text.strip() for text in _MARKER.split(prompt)[::2]]
        parts: list[str | Image] = []
        for text, image in zip(texts[:-1], images, strict=False):
            parts += [text, image]
        parts += images[len(texts) - 1 :]
        return [part for part in [*parts, texts[-1]] if part != ""]

    def sample_id(self, doc: Doc) -> str:
        """The question's id."""
        return str(doc["id"])

    def reference(self, doc: Doc) -> str:
        """The answer, with the option's text for multiple-choice questions."""
        options = self.letters(doc)
        return (
            f"{doc['answer']}. {options[doc['answer']]}" if doc["answer"] in options else str(doc["answer"])
        )

    def letters(self, doc: Doc) -> dict[str, str]:
        """Options by letter."""
        return dict(zip(LETTERS, self._options(doc), strict=False))

    def _options(self, doc: Doc) -> list[str]:
        options = doc["options"]
        try:
            value = ast.literal_eval(options) if isinstance(options, str) else options
            if not isinstance(value, (list, tuple)) or len(value) > MOST_OPTIONS:
                raise TypeError
            return [option if isinstance(option, str) else _number(option) for option in value]
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise InvalidValueError(
                f"{self.name}, sample {doc.get('id')}: options {options!r:.60} is not a Python list of strings"
            ) from None

    def _score(self, doc: Doc, response: str) -> Parts:
        known = {
            "subject": _subject(str(doc["id"])),
            "gold": str(doc["answer"]),
            "order": doc.get("row", -1),
        }
        if doc["question_type"] != "multiple-choice":
            right = open_is_right(parse_open(response), doc["answer"])
            return {**known, "score": float(right), "drawn_from": 0}
        options = self.letters(doc)
        letter = parse_choice(response, options)
        drawn = letter is None
        if letter is None:
            letter = random.Random(f"mmmu {doc['id']}").choice(list(options))
        return {
            **known,
            "score": float(letter == doc["answer"]),
            "drawn_from": len(options) if drawn else 0,
        }

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether a choice can be parsed; open questions accept any text."""
        choice = doc["question_type"] == "multiple-choice"
        return not choice or parse_choice(response, self.letters(doc)) is not None

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracy, rounded to five digits as in the reference."""
        accuracy = ratio(sums["score"], sums["n"])
        return {"mmmu_acc": round(accuracy, 5) if isinstance(accuracy, float) else accuracy}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Accuracy and number of questions per subject."""
        return accuracy_by(rows, "subject")

    def detail_scale(self, metric: str) -> Scale:
        """Accuracy, and the number of questions."""
        return ANSWERS if metric == "n" else FRACTION


@dataclass(frozen=True)
class MMMUSerial(MMMU):
    """Random choices as in the reference: one stream with seed 0 over the questions in document order."""

    summary = "the same, unreadable choices drawn in document order from seed 0 (the reference)"
    separable: ClassVar[bool] = False

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Tallies in document order (if rows contain their number), with the reference's random choices."""
        stream = random.Random(0)
        drawn = []
        for row in sorted(rows, key=lambda row: row["order"]):
            letter = stream.choice(LETTERS[: row["drawn_from"]]) if row["drawn_from"] else None
            drawn.append({**row, "score": float(letter == row["gold"])} if letter else row)
        return super().tallies(drawn)


def _number(option: object) -> str:
    """An option that is written without quotes."""
    if not isinstance(option, (int, float)):
        raise TypeError
    return str(option)


def _subject(sample_id: str) -> str:
    parts = sample_id.split("_")
    return "_".join(parts[1:-1]) if len(parts) > 2 else sample_id


def parse_choice(response: str, options: Mapping[str, str]) -> str | None:
    """The letter of a multiple-choice response, or None if the reference would choose one at random.

    Args:
        response: the response.
        options: letter -> text of the option, in order.
    """
    text = response
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            # For equal positions, including -1, the first letter is used, like argmax in the reference.
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > 5:
        lower = text.lower()
        found = [letter for letter, option in options.items() if option.lower() in lower]
        if found:
            return max(found, key=lambda letter: lower.rfind(options[letter].lower()))
    return None


def extract_numbers(text: str) -> list[str]:
    """Numbers in a text: with thousands separators, then scientific, then plain."""
    return _COMMAS.findall(text) + _SCIENTIFIC.findall(text) + _SIMPLE.findall(text)


def normalize_open(text: str) -> list[str | float]:
    """A number rounded to 2 digits, or the lower-case text; a single character is padded with blanks."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_open(response: str) -> list[str | float]:
    """Candidate answers of an open response: its key phrases and the numbers in them, without duplicates."""
    response = response.strip().strip(".").lower()
    parts = response.split("\n")
    ends = []
    for i, part in enumerate(parts):
        indicators = (*_INDICATORS, "=") if i == len(parts) - 1 else _INDICATORS
        end = ""
        for indicator in indicators:
            if indicator in part:
                tail = part.rsplit(indicator, 1)[-1].strip()
                end = tail if not end or len(tail) < len(end) else end
        if end and end not in (":", ",", ".", "!", "?", ";", "'"):
            ends.append(end)
    ends = ends or [response]
    texts = ends + [number for end in ends for number in extract_numbers(end)]
    return list(dict.fromkeys(value for text in texts for value in normalize_open(text)))


def open_is_right(predictions: Sequence[str | float], gold: str | Sequence[str]) -> bool:
    """Whether a predicted text contains a reference text, or a predicted number equals a reference number."""
    golds = [gold] if isinstance(gold, str) else gold
    wanted = [value for text in golds for value in normalize_open(text)]
    return any(
        want in got if isinstance(got, str) and isinstance(want, str) else got == want
        for got in predictions
        for want in wanted
    )


_SOURCE = DataSource("lmms-lab-encoder/MMMU", "validation", rows=900)
TASKS = (
    MMMU("mmmu_val", _SOURCE),
    MMMUSerial("mmmu_val_serial", _SOURCE),
    MMMU("embedded_mmmu", embedded("mmmu")),
)

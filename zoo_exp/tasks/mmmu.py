"""MMMU: college questions with up to seven images, multiple choice and open."""

import ast
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.base import (
    ANSWERS,
    FRACTION,
    LETTER_ANSWER,
    LETTERS,
    SHORT_ANSWER,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Scale,
    Tally,
    Task,
    embedded,
    mean,
    option_lines,
    ratio,
)
from zoo_exp.tasks.images import decode_image
from zoo_exp.tasks.scoring.mmmu import open_is_right, parse_choice, parse_open

if TYPE_CHECKING:
    from PIL.Image import Image

_MARKER = re.compile(r"<image (\d+)>")


@dataclass(frozen=True)
class MMMU(Task):
    """Accuracy; a choice that cannot be read is drawn at random (spec: benchmarks 8).

    The draw is seeded by the sample's id, so that every arm and every run draw the same letter.
    """

    family: ClassVar[str] = "mmmu"
    summary: ClassVar[str] = "college exam questions; an unreadable choice is drawn by a seed per sample"
    columns: ClassVar[tuple[str, ...]] = ("id", "question", "options", "answer", "question_type", "image_1")
    scored_columns: ClassVar[tuple[str, ...]] = ("id", "options", "answer", "question_type")
    generation: ClassVar[GenerationSettings] = GenerationSettings(128)
    main_metric: ClassVar[str] = "mmmu_acc"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Question and options with their image markers, and how to answer."""
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
        """The images that question and options name, by number."""
        text = doc["question"]
        if doc["question_type"] == "multiple-choice":
            text = f"{text} {' '.join(self._options(doc))}"
        numbers = sorted({int(n) for n in _MARKER.findall(text)})
        where = f"{self.name}, sample {self.sample_id(doc)}"
        self.require(doc, [f"image_{n}" for n in numbers])
        return [decode_image(doc[f"image_{n}"], f"{where}, image {n}") for n in numbers]

    def content(self, doc: Doc, model_family: str) -> "list[str | Image]":
        """Images between the texts that the markers separate, by number and not by mention (the reference).

        Where a marker is repeated there are more gaps than images, and the texts in between are dropped.
        """
        images, prompt = self.images(doc), self.prompt(doc, model_family)
        if model_family == "qwen3_vl":
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
        """The answer, with its text for a multiple-choice question."""
        options = self.letters(doc)
        return (
            f"{doc['answer']}. {options[doc['answer']]}" if doc["answer"] in options else str(doc["answer"])
        )

    def letters(self, doc: Doc) -> dict[str, str]:
        """Letter -> text of the options."""
        return dict(zip(LETTERS, self._options(doc), strict=False))

    def _options(self, doc: Doc) -> list[str]:
        options = doc["options"]
        try:
            value = ast.literal_eval(options) if isinstance(options, str) else options
            return [str(option) for option in value]
        except (ValueError, SyntaxError, TypeError):
            raise InvalidValueError(
                f"{self.name}, sample {doc.get('id')}: options {options!r:.60} is no Python list of texts"
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

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracy, rounded to five places as in the reference."""
        accuracy = ratio(sums["score"], sums["n"])
        return {"mmmu_acc": round(accuracy, 5) if isinstance(accuracy, float) else accuracy}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Accuracy and number of questions per subject."""
        groups: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            groups[row["subject"]].append(row["score"])
        return {name: {"accuracy": mean(v), "n": float(len(v))} for name, v in sorted(groups.items())}

    def detail_scale(self, metric: str) -> Scale:
        """Accuracy, and the number of questions."""
        return ANSWERS if metric == "n" else FRACTION


@dataclass(frozen=True)
class MMMUSerial(MMMU):
    """The reference's own draw: one stream of letters, seed 0, over the questions in document order."""

    summary: ClassVar[str] = (
        "the same, unreadable choices drawn in document order from seed 0 (the reference)"
    )

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """The rows in document order (where rows know theirs), with the reference's draws."""
        stream = random.Random(0)
        drawn = []
        for row in sorted(rows, key=lambda row: row["order"]):
            letter = stream.choice(LETTERS[: row["drawn_from"]]) if row["drawn_from"] else None
            drawn.append({**row, "score": float(letter == row["gold"])} if letter else row)
        return super().tallies(drawn)


def _subject(sample_id: str) -> str:
    parts = sample_id.split("_")
    return "_".join(parts[1:-1]) if len(parts) > 2 else sample_id


_SOURCE = DataSource("lmms-lab-encoder/MMMU", "validation", rows=900)
TASKS = (
    MMMU("mmmu_val", _SOURCE),
    MMMUSerial("mmmu_val_serial", _SOURCE),
    MMMU("embedded_mmmu", embedded("mmmu")),
)

"""ScienceQA, questions with an image: multiple choice on school science."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.base import (
    LETTER_ANSWER,
    LETTERS,
    OPTION_LETTER,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Task,
    embedded,
    option_lines,
)
from zoo_exp.tasks.columns import CHOICES, NUMBER, TEXT, TEXT_OR_NOTHING, Columns
from zoo_exp.tasks.scoring.text import option_letter


@dataclass(frozen=True)
class ScienceQA(Task):
    """The option's letter, alone or with a period (lmms-eval, lmms_eval/tasks/scienceqa)."""

    family = "scienceqa"
    summary = "multiple-choice science questions that have an image, test split"
    embedded_summary = "arithmetic on the digits in the image, multiple choice"
    columns = ("question", "choices", "answer", "hint", "image")
    scored_columns = ("choices", "answer")
    kinds: ClassVar[Columns] = {
        "question": TEXT,
        "choices": CHOICES,
        "answer": NUMBER,
        "hint": TEXT_OR_NOTHING,
    }
    generation = GenerationSettings(16)
    answer_form = OPTION_LETTER

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Context, question, options, and an answer instruction."""
        options = option_lines(doc["choices"])
        if model_family == "embedded":
            return f"{doc['question']}\n{options}"
        if model_family == "qwen_vl":
            return (
                f"Context: {doc['hint'] or 'N/A'}\nQuestion: {doc['question']}\nOptions: {options}\nAnswer:"
            )
        context = f"Context: {doc['hint']}\n" if doc["hint"] else ""
        ending = "\nAnswer:" if model_family == "idefics2" else LETTER_ANSWER
        return f"{context}{doc['question']}\n{options}{ending}"

    def sample_id(self, doc: Doc) -> str:
        """The row's number in its split, or a digest of its content, because the data set has no ids."""
        if "row" in doc:
            return str(doc["row"])
        image: Any = doc.get("image")
        pixels = image.tobytes() if hasattr(image, "tobytes") else b""
        text = json.dumps([doc.get(key) for key in ("question", "choices", "hint", "answer")], default=str)
        return sha256(text.encode() + pixels).hexdigest()[:16]

    def reference(self, doc: Doc) -> str:
        """Letter and text of the correct choice."""
        letter = self._gold(doc)
        return f"{letter}. {doc['choices'][doc['answer']]}"

    def _gold(self, doc: Doc) -> str:
        choices: Sequence[str] = doc["choices"]
        answer = doc["answer"]
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise InvalidValueError(
                f"{self.name}: answer {answer!r} is not the number of a choice (0 to {len(choices) - 1})"
            )
        return LETTERS[answer]

    def _score(self, doc: Doc, response: str) -> Parts:
        return {"score": option_letter(response, self._gold(doc))}

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether it is the letter of a choice, alone or, as a capital letter, followed by a period."""
        letters = LETTERS[: len(doc["choices"])]
        return any(option_letter(response, letter) for letter in letters)


TASKS = (
    ScienceQA("scienceqa_img", DataSource("lmms-lab-encoder/ScienceQA", "test", "ScienceQA-IMG", rows=2017)),
    ScienceQA("embedded_scienceqa", embedded("scienceqa")),
)

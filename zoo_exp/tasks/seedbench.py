"""SEED-Bench: multiple choice about images and videos; the image rows are the papers' SEED-I."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.base import (
    LETTER_ANSWER,
    OPTION_LETTER,
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
from zoo_exp.tasks.columns import ID, ID_OR_NOTHING, SCALAR_OR_NOTHING, TEXT, Columns
from zoo_exp.tasks.images import decode_image
from zoo_exp.tasks.scoring.text import first_letter

if TYPE_CHECKING:
    from PIL.Image import Image

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


@dataclass(frozen=True)
class SeedBench(Task):
    """Accuracy of the first character of the response (lmms-eval, lmms_eval/tasks/seedbench)."""

    family = "seedbench"
    summary = "multiple choice about images and videos"
    embedded_summary = "places and numbers of objects, multiple choice"
    columns = (
        "question_id", "question", *_CHOICES, "answer", "data_type", "image",
    )  # fmt: skip
    scored_columns = ("answer", "data_type")
    kinds: ClassVar[Columns] = {
        **{"question_id": ID, "question": TEXT, "answer": TEXT, "data_type": TEXT, "data_id": ID_OR_NOTHING},
        **dict.fromkeys(_CHOICES, SCALAR_OR_NOTHING),
    }
    generation = GenerationSettings(None, ("ASSISTANT:",))
    main_metric = "seed_all"
    answer_form = OPTION_LETTER

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Question, four options, and how to answer."""
        options = [doc[choice] for choice in _CHOICES]
        if model_family == "embedded":
            return f"{doc['question']}\n{option_lines([option for option in options if option])}"
        return f"{doc['question']}\n{option_lines(options)}{LETTER_ANSWER}"

    def images(self, doc: Doc) -> "list[Image]":
        """One image, or the frames of a video."""
        value = doc["image"]
        frames = value if isinstance(value, (list, tuple)) else [value]
        return [decode_image(frame, f"{self.name}, sample {self.sample_id(doc)}") for frame in frames]

    def sample_id(self, doc: Doc) -> str:
        """The question's id."""
        return str(doc["question_id"])

    def image_id(self, doc: Doc) -> str:
        """The image's or video's id."""
        return str(doc.get("data_id") or self.sample_id(doc))

    def reference(self, doc: Doc) -> str:
        """Letter and text of the correct choice."""
        return f"{doc['answer']}. {doc['choice_' + doc['answer'].lower()]}"

    def _score(self, doc: Doc, response: str) -> Parts:
        return {"score": first_letter(response, doc["answer"]), "data_type": str(doc["data_type"])}

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether it starts with a letter from A to D that is not part of a word; the score ignores what follows."""
        return response[:1].upper() in tuple("ABCD") and not response[1:2].isalpha()

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Score and count, for all rows and by kind."""
        return [
            Tally(
                self.unit_name(row),
                {f"{what} {kind}": n for kind in ("all", row["data_type"])
                 for what, n in (("score", row["score"]), ("n", 1.0))},
                row["score"],
            )
            for row in rows
        ]  # fmt: skip

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracy on images, videos, and both; kinds without rows are omitted."""
        kinds = sorted(key.removeprefix("n ") for key in sums if key.startswith("n "))
        return {f"seed_{kind}": ratio(sums[f"score {kind}"], sums[f"n {kind}"]) for kind in kinds}


@dataclass(frozen=True)
class SeedBenchImage(SeedBench):
    """SEED-I: the rows about an image."""

    summary = "multiple choice about images (SEED-I)"
    main_metric = "seed_image"
    row_filter = ("data_type", "image")

    def _score(self, doc: Doc, response: str) -> Parts:
        if doc["data_type"] != "image":
            raise InvalidValueError(
                f"{self.name}: the row is about a {doc['data_type']}; use the task seedbench for those"
            )
        return super()._score(doc, response)


_REPO = "lmms-lab-encoder/SEED-Bench"
TASKS = (
    SeedBench("seedbench", DataSource(_REPO, "test", rows=17990)),
    SeedBenchImage("seedbench_image", DataSource(_REPO, "test", rows=14233)),
    SeedBenchImage("embedded_seedbench", embedded("seedbench")),
)

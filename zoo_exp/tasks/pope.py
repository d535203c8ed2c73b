"""POPE: object existence. All questions together, and the three strategies of choosing absent objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_exp.tasks.base import (
    SHORT_ANSWER,
    YES_NO,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Tally,
    Task,
    embedded,
    exact_sums,
    ratio,
)
from zoo_exp.tasks.columns import ID, ID_OR_NOTHING, TEXT, Columns
from zoo_exp.tasks.images import coco_key
from zoo_exp.tasks.scoring.text import yes_no_word
from zoo_exp.tasks.scoring.yes_no import gold_yes_no, pope_counts

_ENDINGS = {"plm": "\nYour response must be concise.", "embedded": ""}


@dataclass(frozen=True)
class POPE(Task):
    """The whole response must be `yes` or `no`; papers report the F1 of `yes` (lmms-eval, lmms_eval/tasks/pope)."""

    family = "pope"
    summary = "object existence, yes or no; accuracy, precision, recall, F1"
    embedded_summary = "object existence, yes or no; accuracy, precision, recall, F1"
    columns = ("question_id", "question", "answer", "category", "image")
    scored_columns = ("answer",)
    kinds: ClassVar[Columns] = {
        **{"question_id": ID, "question": TEXT, "answer": TEXT, "category": TEXT},
        "image_source": ID_OR_NOTHING,
    }
    generation = GenerationSettings(128)
    main_metric = "pope_f1_score"
    answer_form = YES_NO
    mean_of_units: ClassVar[bool] = False

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The question and an answer instruction."""
        return str(doc["question"]).strip() + _ENDINGS.get(model_family, SHORT_ANSWER)

    def sample_id(self, doc: Doc) -> str:
        """Category and number: numbers are unique within a category."""
        return f"{doc['category']}/{doc['question_id']}"

    def image_id(self, doc: Doc) -> str:
        """The COCO image's name."""
        return str(doc.get("image_source") or self.sample_id(doc))

    def image_key(self, image: str) -> str:
        """The COCO image number, which VQAv2 uses as well."""
        return coco_key(image) if self.source.kind == "hub" else super().image_key(image)

    def reference(self, doc: Doc) -> str:
        """The answer."""
        return yes_no_word(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        prediction, gold = yes_no_word(response), gold_yes_no(yes_no_word(doc["answer"]))
        return {
            "score": float(prediction == gold),
            "prediction": prediction,
            "ground_truth": gold,
            "category": str(doc.get("category", "")),
        }

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether the whole response is yes or no."""
        return yes_no_word(response) in ("yes", "no")

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Correct answers, and confusion counts of `yes`, for every row."""
        return [
            Tally(self.unit_name(row), counts, counts["right"])
            for row in rows
            for counts in [pope_counts(row["prediction"], row["ground_truth"])]
        ]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """The five metrics; the yes ratio is that of the reference answers, as in lmms-eval."""
        precision = ratio(sums["hit"], sums["hit"] + sums["false_yes"])
        recall = ratio(sums["hit"], sums["hit"] + sums["false_no"])
        return {
            "pope_accuracy": ratio(sums["right"], sums["n"]),
            "pope_precision": precision,
            "pope_recall": recall,
            "pope_f1_score": ratio(2 * precision * recall, precision + recall),
            "pope_yes_ratio": ratio(sums["yes"], sums["n"]),
        }

    def details(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Accuracy, precision, recall, and the share of `yes` responses."""
        sums = exact_sums(self.tallies(rows))
        known = self.metrics(sums)
        return {
            "accuracy": known["pope_accuracy"],
            "precision": known["pope_precision"],
            "recall": known["pope_recall"],
            "yes_rate": ratio(sums["hit"] + sums["false_yes"], sums["n"]),
        }

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """The five metrics by category."""
        categories = sorted({row["category"] for row in rows})
        return {name: self.aggregate([r for r in rows if r["category"] == name]) for name in categories}


_REPO = "lmms-lab-encoder/POPE"
TASKS = (
    POPE("pope", DataSource(_REPO, "test", rows=9000)),
    POPE("pope_adv", DataSource(_REPO, "adversarial", "Full", rows=3000)),
    POPE("pope_pop", DataSource(_REPO, "popular", "Full", rows=3000)),
    POPE("pope_random", DataSource(_REPO, "random", "Full", rows=3000)),
    POPE("embedded_pope", embedded("pope")),
)

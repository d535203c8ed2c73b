"""POPE: is the object in the image? Pooled, and its three ways of choosing absent objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_exp.tasks.base import SHORT_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task
from zoo_exp.tasks.scoring.text import yes_no_word
from zoo_exp.tasks.scoring.yes_no import pope_metrics

_ENDINGS = {"plm": "\nYour response must be concise.", "embedded": ""}


@dataclass(frozen=True)
class POPE(Task):
    """The whole response is `yes` or `no`; F1 of `yes` is the number that papers report (spec: benchmarks 5)."""

    family: ClassVar[str] = "pope"
    summary: ClassVar[str] = "object existence, yes or no; accuracy, precision, recall, F1"
    columns: ClassVar[tuple[str, ...]] = ("question_id", "question", "answer", "category", "image")
    scored_columns: ClassVar[tuple[str, ...]] = ("answer",)
    generation: ClassVar[GenerationSettings] = GenerationSettings(128)
    main_metric: ClassVar[str] = "pope_f1_score"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The question, and how to answer."""
        return doc["question"].strip() + _ENDINGS.get(model_family, SHORT_ANSWER)

    def sample_id(self, doc: Doc) -> str:
        """Category and number: the numbers start again in every category."""
        return f"{doc['category']}/{doc['question_id']}"

    def image_id(self, doc: Doc) -> str:
        """The COCO image's name."""
        return str(doc.get("image_source") or self.sample_id(doc))

    def reference(self, doc: Doc) -> str:
        """The answer."""
        return yes_no_word(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        prediction, gold = yes_no_word(response), yes_no_word(doc["answer"])
        return {
            "score": float(prediction == gold),
            "prediction": prediction,
            "ground_truth": gold,
            "category": str(doc.get("category", "")),
        }

    def _aggregate(self, rows: Sequence[Parts]) -> dict[str, float]:
        return pope_metrics([(row["prediction"], row["ground_truth"]) for row in rows])

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """The same five numbers for each category."""
        categories = sorted({row["category"] for row in rows})
        return {c: self._aggregate([dict(r) for r in rows if r["category"] == c]) for c in categories}


_REPO = "lmms-lab-encoder/POPE"
TASKS = (
    POPE("pope", DataSource(_REPO, "test", rows=9000)),
    POPE("pope_adv", DataSource(_REPO, "adversarial", "Full", rows=3000)),
    POPE("pope_pop", DataSource(_REPO, "popular", "Full", rows=3000)),
    POPE("pope_random", DataSource(_REPO, "random", "Full", rows=3000)),
)

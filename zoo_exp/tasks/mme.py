"""MME: two yes/no questions per image, points for each and for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import fsum
from typing import Any, ClassVar

from zoo_exp.tasks.base import SHORT_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task
from zoo_exp.tasks.scoring.text import yes_no_prefix
from zoo_exp.tasks.scoring.yes_no import PERCEPTION, mme_categories

_ASK = " Please answer yes or no."
_ENDINGS = {
    "qwen_vl": " Answer:",
    "otterhd": " Answer:",
    "gpt4v": "\nAnswer the question with Yes or No.",
    "xcomposer2_4khd": " Answer this question briefly[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n",
    "embedded": "",
}


@dataclass(frozen=True)
class MME(Task):
    """Perception and cognition points, and their sum, which papers call P+C (spec: benchmarks 6)."""

    family: ClassVar[str] = "mme"
    summary: ClassVar[str] = "paired yes/no questions; perception (2000) plus cognition (800) points"
    columns: ClassVar[tuple[str, ...]] = ("question_id", "question", "answer", "category", "image")
    scored_columns: ClassVar[tuple[str, ...]] = ("question_id", "answer", "category")
    generation: ClassVar[GenerationSettings] = GenerationSettings(16)
    main_metric: ClassVar[str] = "mme_total_score"
    scale: ClassVar[str] = "points of 2800"
    unit_column: ClassVar[str | None] = "question_id"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The question without its own request for yes or no, and the variant's instead."""
        question: str = doc["question"].strip()
        if model_family == "plm":
            return question
        start = "[UNUSED_TOKEN_146]user\n" if model_family == "xcomposer2_4khd" else ""
        return start + question.replace(_ASK, "") + _ENDINGS.get(model_family, SHORT_ANSWER)

    def sample_id(self, doc: Doc) -> str:
        """The image's id and a digest of what is asked: an image has two questions."""
        asked = f"{doc['question']}\n{doc['answer']}"
        return f"{doc['category']}/{doc['question_id']}#{sha256(asked.encode()).hexdigest()[:8]}"

    def image_id(self, doc: Doc) -> str:
        """Category and file, which the two questions of an image share."""
        return f"{doc['category']}/{doc['question_id']}"

    def reference(self, doc: Doc) -> str:
        """The answer."""
        return str(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        gold = doc["answer"].lower().strip().replace(".", "")
        return {
            "score": float(yes_no_prefix(response) == gold),
            "category": str(doc["category"]),
            "image": str(doc["question_id"]),
        }

    def _aggregate(self, rows: Sequence[Parts]) -> dict[str, float]:
        points = mme_categories((row["category"], row["image"], row["score"]) for row in rows)
        totals = {}
        for name, perception in (("mme_perception_score", True), ("mme_cognition_score", False)):
            share = [c.points for category, c in points.items() if (category in PERCEPTION) == perception]
            if share:
                totals[name] = fsum(share)
        return {**totals, "mme_total_score": fsum(totals.values())}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Per category: points, share per question (acc) and per image (acc_plus)."""
        points = mme_categories((row["category"], row["image"], row["score"]) for row in rows)
        return {
            name: {"score": c.points, "acc": c.accuracy, "acc_plus": c.both_right}
            for name, c in sorted(points.items())
        }


TASKS = (MME("mme", DataSource("lmms-lab-encoder/MME", "test", rows=2374)),)

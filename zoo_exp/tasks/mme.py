"""MME: two yes/no questions per image, with points for each and for both."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
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
    mean,
    ratio,
)
from zoo_exp.tasks.columns import ID, TEXT, Columns
from zoo_exp.tasks.scale import PERCENT, Scale
from zoo_exp.tasks.scoring.text import yes_no_prefix
from zoo_exp.tasks.scoring.yes_no import PERCEPTION, MMEImage, gold_yes_no, mme_images

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
    """Perception and cognition points, and their sum, which papers call P+C (lmms-eval, lmms_eval/tasks/mme)."""

    family = "mme"
    summary = "paired yes/no questions; perception (2000) plus cognition (800) points"
    embedded_summary = "paired yes/no questions; perception (2000) plus cognition (800) points"
    columns = ("question_id", "question", "answer", "category", "image")
    scored_columns = ("question_id", "answer", "category")
    kinds: ClassVar[Columns] = {"question_id": ID, "question": TEXT, "answer": TEXT, "category": TEXT}
    generation = GenerationSettings(16)
    main_metric = "mme_total_score"
    answer_form = YES_NO
    scale = Scale("points", 2800.0)
    mean_of_units: ClassVar[bool] = False
    unit_column = "question_id"
    rows_per_unit: ClassVar[int] = 2

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The question, with its request for yes or no replaced by that of the prompt variant."""
        question: str = doc["question"].strip()
        if model_family == "plm":
            return question
        start = "[UNUSED_TOKEN_146]user\n" if model_family == "xcomposer2_4khd" else ""
        return start + question.replace(_ASK, "") + _ENDINGS.get(model_family, SHORT_ANSWER)

    def sample_id(self, doc: Doc) -> str:
        """The image's id and a digest of the question: an image has two questions."""
        asked = f"{doc['question']}\n{doc['answer']}"
        return f"{self.image_id(doc)}#{sha256(asked.encode()).hexdigest()[:8]}"

    def image_id(self, doc: Doc) -> str:
        """Category and file name, shared by the two questions of an image."""
        name, category = str(doc["question_id"]), doc["category"]
        return name if name.startswith(f"{category}/") else f"{category}/{name}"

    def unit_name(self, row: Mapping[str, Any]) -> str:
        """Category and file name: the two questions of an image are scored together."""
        return f"{row['category']}/{row['image']}"

    def reference(self, doc: Doc) -> str:
        """The answer."""
        return str(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        gold = gold_yes_no(doc["answer"].lower().strip().replace(".", ""))
        return {
            "score": float(yes_no_prefix(response) == gold),
            "category": str(doc["category"]),
            "image": str(doc["question_id"]),
        }

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether its start is yes or no."""
        return yes_no_prefix(response) != "other"

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Points of every image, by category."""
        return [
            Tally(
                f"{image.category}/{image.name}",
                {f"points {image.category}": image.points, f"n {image.category}": 1.0},
                image.points / 200,
            )
            for image in mme_images((row["category"], row["image"], row["score"]) for row in rows)
        ]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Sums of the categories' points: perception, cognition (all other categories), and both.

        Sums without any category are omitted, as in the reference.
        """
        totals: dict[str, Any] = {}
        for key in sorted(key for key in sums if key.startswith("points ")):
            category = key.removeprefix("points ")
            name = "mme_perception_score" if category in PERCEPTION else "mme_cognition_score"
            totals[name] = totals.get(name, 0.0) + ratio(sums[key], sums[f"n {category}"])
        return {**totals, "mme_total_score": sum(totals.values())}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """By category: points, accuracy per question (acc) and per image (acc_plus)."""
        groups: dict[str, list[MMEImage]] = defaultdict(list)
        for image in mme_images((row["category"], row["image"], row["score"]) for row in rows):
            groups[image.category].append(image)
        return {
            name: {
                "score": mean(image.points for image in images),
                "acc": mean(image.accuracy for image in images),
                "acc_plus": mean(image.both_right for image in images),
            }
            for name, images in sorted(groups.items())
        }

    def detail_scale(self, metric: str) -> Scale:
        """Points up to 200 per category, and percent of questions and images."""
        return Scale("points", 200.0) if metric == "score" else PERCENT


TASKS = (
    MME("mme", DataSource("lmms-lab-encoder/MME", "test", rows=2374)),
    MME("embedded_mme", embedded("mme")),
)

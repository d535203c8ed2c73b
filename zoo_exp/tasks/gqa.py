"""GQA: a word or phrase about a scene."""

from dataclasses import dataclass
from typing import ClassVar

from zoo_exp.tasks.base import SHORT_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task, embedded
from zoo_exp.tasks.columns import ID, ID_OR_NOTHING, TEXT, Columns
from zoo_exp.tasks.scoring.text import exact_match


@dataclass(frozen=True)
class GQA(Task):
    """Exact match that ignores case and punctuation (lmms-eval, lmms_eval/tasks/gqa)."""

    family = "gqa"
    summary = "compositional questions about scenes, balanced test-dev"
    embedded_summary = "left or right, above or below, colours and shapes"
    columns = ("id", "imageId", "question", "answer", "image")
    scored_columns = ("answer",)
    kinds: ClassVar[Columns] = {"id": ID, "imageId": ID_OR_NOTHING, "question": TEXT, "answer": TEXT}
    generation = GenerationSettings(16)

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The unchanged question and an answer instruction."""
        ending = {"qwen_vl": " Answer:", "embedded": ""}.get(model_family, SHORT_ANSWER)
        return f"{doc['question']}{ending}"

    def sample_id(self, doc: Doc) -> str:
        """The question's id."""
        return str(doc["id"])

    def image_id(self, doc: Doc) -> str:
        """The scene's id."""
        return str(doc.get("imageId") or self.sample_id(doc))

    def reference(self, doc: Doc) -> str:
        """The answer."""
        return str(doc["answer"])

    def _score(self, doc: Doc, response: str) -> Parts:
        return {"score": exact_match(response, doc["answer"])}


TASKS = (
    GQA(
        "gqa",
        DataSource(
            "lmms-lab-encoder/GQA",
            "testdev",
            "testdev_balanced_instructions",
            rows=12578,
            images_config="testdev_balanced_images",
        ),
    ),
    GQA("embedded_gqa", embedded("gqa")),
)

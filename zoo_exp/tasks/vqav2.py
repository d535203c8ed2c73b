"""VQAv2: open questions with ten annotators' answers each, and test-dev with hidden answers."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_exp.tasks import columns as kind
from zoo_exp.tasks.base import SHORT_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task, embedded, mean
from zoo_exp.tasks.hidden_answers import Submission
from zoo_exp.tasks.images import coco_key
from zoo_exp.tasks.scale import ANSWERS, FRACTION, Scale
from zoo_exp.tasks.scoring.evalai import normalize_vqa
from zoo_exp.tasks.scoring.vqa import answer_texts, soft_accuracy


@dataclass(frozen=True)
class VQAv2(Task):
    """Soft accuracy over the annotators (lmms-eval, lmms_eval/tasks/vqav2)."""

    family = "vqav2"
    summary = "open questions, soft accuracy over ten annotators, validation split"
    embedded_summary = "presence, number and colour of objects; soft accuracy over ten annotators"
    columns = ("question_id", "image_id", "question", "answers", "image")
    scored_columns = ("answers",)
    kinds: ClassVar[kind.Columns] = {
        **{"question_id": kind.ID, "image_id": kind.ID, "question": kind.TEXT, "answers": kind.ANSWERS},
        "answer_type": kind.TEXT_OR_NOTHING,
    }
    generation = GenerationSettings(16)

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The unchanged question and an answer instruction."""
        return f"{doc['question']}{'' if model_family in ('plm', 'embedded') else SHORT_ANSWER}"

    def sample_id(self, doc: Doc) -> str:
        """The question's id."""
        return str(doc["question_id"])

    def image_id(self, doc: Doc) -> str:
        """The COCO image's id."""
        return str(doc.get("image_id", self.sample_id(doc)))

    def image_key(self, image: str) -> str:
        """The COCO image number, which is part of POPE's image names."""
        return coco_key(image) if self.source.kind == "hub" else super().image_key(image)

    def reference(self, doc: Doc) -> str:
        """The annotators' most frequent answer."""
        return Counter(answer_texts(doc["answers"])).most_common(1)[0][0]

    def _score(self, doc: Doc, response: str) -> Parts:
        return {
            "score": soft_accuracy(response, answer_texts(doc["answers"] or ()), normalize_vqa),
            "answer_type": str(doc.get("answer_type") or ""),
        }

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Accuracy and number of questions per answer type: yes/no, number (counting), other."""
        groups: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if row.get("answer_type"):
                groups[row["answer_type"]].append(row["score"])
        return {name: {"accuracy": mean(v), "n": float(len(v))} for name, v in sorted(groups.items())}

    def detail_scale(self, metric: str) -> Scale:
        """Accuracy, and the number of questions."""
        return ANSWERS if metric == "n" else FRACTION


@dataclass(frozen=True)
class VQAv2TestDev(Submission, VQAv2):
    """Responses for submission to EvalAI; nothing can be scored locally."""

    summary = "test-dev questions, writes the file that EvalAI scores"
    columns = ("question_id", "image_id", "question", "image")
    scored_columns = ("question_id",)
    kinds: ClassVar[kind.Columns] = {**VQAv2.kinds, "question_id": kind.NUMBER}

    def _score(self, doc: Doc, response: str) -> Parts:
        return {"score": None, "question_id": int(doc["question_id"]), "answer": response}


TASKS = (
    VQAv2("vqav2_val", DataSource("lmms-lab-encoder/VQAv2", "validation", rows=214354)),
    VQAv2TestDev("vqav2_testdev", DataSource("lmms-lab-encoder/VQAv2", "testdev", rows=107394)),
    VQAv2("embedded_vqav2", embedded("vqav2")),
)

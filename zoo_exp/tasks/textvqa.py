"""TextVQA: questions about text in the image, without and with the OCR tokens in the prompt."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from zoo_exp.tasks.base import SHORT_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task, embedded
from zoo_exp.tasks.columns import ANSWERS, ID, TEXT, TEXTS, Columns
from zoo_exp.tasks.scoring.evalai import normalize_textvqa
from zoo_exp.tasks.scoring.vqa import answer_texts, soft_accuracy

_ENDINGS = {"qwen_vl": " Answer:", "plm": "\nProvide a short and direct response.", "embedded": ""}


@dataclass(frozen=True)
class TextVQA(Task):
    """Soft accuracy over the annotators after the challenge's full normaliser (lmms-eval, lmms_eval/tasks/textvqa)."""

    family = "textvqa"
    summary = "questions about text in the image, no OCR tokens in the prompt"
    embedded_summary = "words and digits in the image, no OCR tokens in the prompt"
    columns = ("question_id", "image_id", "question", "answers", "image")
    scored_columns = ("answers",)
    kinds: ClassVar[Columns] = {
        "question_id": ID,
        "image_id": ID,
        "question": TEXT,
        "answers": ANSWERS,
        "ocr_tokens": TEXTS,
    }
    generation = GenerationSettings(None, ("ASSISTANT:",))

    def prompt(self, doc: Doc, model_family: str) -> str:
        """The question with only its first letter in upper case (as in the reference), and an answer instruction."""
        hint = "" if model_family == "embedded" else self._hint(doc)
        return str(doc["question"]).capitalize() + hint + _ENDINGS.get(model_family, SHORT_ANSWER)

    def _hint(self, doc: Doc) -> str:
        return ""

    def sample_id(self, doc: Doc) -> str:
        """The question's id."""
        return str(doc["question_id"])

    def image_id(self, doc: Doc) -> str:
        """The OpenImages id."""
        return str(doc.get("image_id", self.sample_id(doc)))

    def reference(self, doc: Doc) -> str:
        """The annotators' most frequent answer."""
        return Counter(answer_texts(doc["answers"])).most_common(1)[0][0]

    def _score(self, doc: Doc, response: str) -> Parts:
        score = soft_accuracy(response, answer_texts(doc["answers"] or ()), normalize_textvqa)
        return {"score": score, "answer": normalize_textvqa(response)}


@dataclass(frozen=True)
class TextVQAWithOCR(TextVQA):
    """The protocol of LLaVA's own script (scripts/v1_5/eval/textvqa.sh): OCR tokens in the prompt."""

    summary = "the same with the data set's OCR tokens in the prompt, as LLaVA's script does"
    columns = (*TextVQA.columns, "ocr_tokens")

    def _hint(self, doc: Doc) -> str:
        return f"\nReference OCR token: {', '.join(doc['ocr_tokens'])}"


_SOURCE = DataSource("lmms-lab-encoder/textvqa", "validation", rows=5000)
TASKS = (
    TextVQA("textvqa_val", _SOURCE),
    TextVQAWithOCR("textvqa_val_ocr", _SOURCE),
    TextVQA("embedded_textvqa", embedded("textvqa")),
)

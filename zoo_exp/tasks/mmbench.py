"""MMBench-EN: multiple choice asked once per rotation of the options; dev is scored here, test at the server."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_exp.core.errors import InvalidValueError
from zoo_exp.tasks.base import LETTER_ANSWER, DataSource, Doc, GenerationSettings, Parts, Task, mean
from zoo_exp.tasks.scoring.mmbench import CYCLE, Row, circular, extract_letter, prefetch


@dataclass(frozen=True)
class MMBench(Task):
    """Circular evaluation with the reference's rule-based letter extraction (spec: benchmarks 7)."""

    family: ClassVar[str] = "mmbench"
    summary: ClassVar[str] = "multiple choice, right only if right under every rotation of the options"
    columns: ClassVar[tuple[str, ...]] = ("index", "question", "hint", "answer", *"ABCD", "category", "image")
    scored_columns: ClassVar[tuple[str, ...]] = ("index", "answer", *"ABCD")
    generation: ClassVar[GenerationSettings] = GenerationSettings(1024, ("ASSISTANT:",))
    main_metric: ClassVar[str] = "gpt_eval_score"
    scale: ClassVar[str] = "0-100"
    unit_column: ClassVar[str | None] = "index"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Hint, question, the options that there are, and how to answer after an empty line."""
        hint = f"{doc['hint']} " if _given(doc["hint"]) else ""
        lines = "\n".join(f"{letter}. {doc[letter]}" for letter in "ABCD" if _given(doc[letter]))
        if model_family == "embedded":
            return f"{hint}{doc['question']}\n{lines}"
        return f"{hint}{doc['question']} There are several options:\n{lines}\n{LETTER_ANSWER}"

    def sample_id(self, doc: Doc) -> str:
        """The row's index: the question's number plus 1,000,000 per rotation."""
        return str(self._index(doc))

    def unit(self, value: Any) -> object:  # noqa: ANN401
        """The question's number, which its rotations share."""
        return int(value) % CYCLE

    def image_id(self, doc: Doc) -> str:
        """The question's number, which its rotations share."""
        return str(self._index(doc) % CYCLE)

    def reference(self, doc: Doc) -> str:
        """Letter and text of the right option."""
        return f"{doc['answer']}. {doc[doc['answer']]}"

    def _index(self, doc: Doc) -> int:
        try:
            return int(doc["index"])
        except (TypeError, ValueError):
            raise InvalidValueError(f"{self.name}: index {doc['index']!r} is no whole number") from None

    def _score(self, doc: Doc, response: str) -> Parts:
        # Only a missing option is none; the text "nan" stays an option, as in the reference.
        options = {letter: doc[letter] if isinstance(doc[letter], str) else None for letter in "ABCD"}
        early = prefetch(response, options)
        late = extract_letter(response, [letter for letter in options if options[letter] is not None])
        return {
            "score": float((early or late) == doc["answer"]),
            "index": self._index(doc),
            "answer": doc["answer"],
            "prefetched": early,
            "extracted": late,
            "category": str(doc.get("category", "")),
            "l2_category": str(doc.get("L2-category", "")),
        }

    def _hits(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        extracted = {row["index"]: row["extracted"] for row in rows}
        hits = circular(
            [Row(row["index"], row["answer"], row["prefetched"]) for row in rows],
            lambda row: extracted[row.index],
        )
        if not hits:
            raise InvalidValueError(
                f"{self.name}: no row has an index below {CYCLE}, so no question has its unrotated copy"
            )
        return hits

    def _aggregate(self, rows: Sequence[Parts]) -> dict[str, float]:
        return {"gpt_eval_score": 100 * mean(self._hits(rows).values())}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Accuracy (0 to 1) per category and per L2 category, over questions."""
        hits = self._hits(rows)
        groups: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if row["index"] in hits:
                groups[row["category"]].append(hits[row["index"]])
                groups[f"L2/{row['l2_category']}"].append(hits[row["index"]])
        return {name: {"accuracy": mean(values)} for name, values in sorted(groups.items())}


@dataclass(frozen=True)
class MMBenchTest(MMBench):
    """Answers to hand in at the MMBench server; nothing can be scored here."""

    summary: ClassVar[str] = "test questions, writes the table that the MMBench server scores"
    columns: ClassVar[tuple[str, ...]] = ("index", "question", "hint", *"ABCD", "category", "image")
    scored_columns: ClassVar[tuple[str, ...]] = ("index", "question", *"ABCD")
    main_metric: ClassVar[str] = "submission"
    scale: ClassVar[str] = "answers"
    submission_only: ClassVar[bool] = True

    def reference(self, doc: Doc) -> str:
        """The server knows."""
        return "(hidden)"

    def _score(self, doc: Doc, response: str) -> Parts:
        copied = ("question", "hint", *"ABCD", "category", "source", "L2-category", "split")
        texts = {key: None if doc.get(key) is None else str(doc[key]) for key in copied}
        return {"score": None, "index": self._index(doc), "prediction": response, **texts}

    def _aggregate(self, rows: Sequence[Parts]) -> dict[str, float]:
        return {"submission": float(len(rows))}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Nothing is known before the server answers."""
        return {}


def _given(text: object) -> bool:
    return isinstance(text, str) and text not in ("", "nan")


_REPO = "lmms-lab-encoder/MMBench"
TASKS = (
    MMBench("mmbench_en_dev_static", DataSource(_REPO, "dev", "en", rows=4329)),
    MMBenchTest("mmbench_en_test", DataSource(_REPO, "test", "en", rows=6666)),
)

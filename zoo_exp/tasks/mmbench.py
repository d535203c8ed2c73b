"""MMBench-EN: multiple choice, asked once per rotation of the options; the test split is the server's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks.base import (
    ANSWERS,
    LETTER_ANSWER,
    PERCENT,
    DataSource,
    Doc,
    GenerationSettings,
    Parts,
    Scale,
    Tally,
    Task,
    embedded,
    mean,
    ratio,
)
from zoo_exp.tasks.scoring.mmbench import CYCLE, Row, circular, extract_letter, prefetch


@dataclass(frozen=True)
class MMBench(Task):
    """Circular evaluation with the reference's rule-based letter extraction (spec: benchmarks 7)."""

    family: ClassVar[str] = "mmbench"
    summary: ClassVar[str] = "multiple choice, right only if right under every rotation of the options"
    columns: ClassVar[tuple[str, ...]] = ("index", "question", "hint", "answer", *"ABCD", "category", "image")
    scored_columns: ClassVar[tuple[str, ...]] = ("index", "answer", "A", "B")
    generation: ClassVar[GenerationSettings] = GenerationSettings(1024, ("ASSISTANT:",))
    main_metric: ClassVar[str] = "gpt_eval_score"
    scale: ClassVar[Scale] = PERCENT
    unit_column: ClassVar[str | None] = "index"

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Hint, question, the options that there are, and how to answer after an empty line."""
        hint = "" if _text(doc["hint"]) in (None, "nan") else f"{doc['hint']} "
        options = {letter: _text(doc.get(letter)) for letter in "ABCDE"}
        lines = "\n".join(
            f"{x}. {option}" for x, option in options.items() if option not in (None, "", "nan")
        )
        if model_family == "embedded":
            return f"{hint}{doc['question']}\n{lines}"
        return f"{hint}{doc['question']} There are several options:\n{lines}\n{LETTER_ANSWER}"

    def sample_id(self, doc: Doc) -> str:
        """The row's index: the question's number plus 1,000,000 per rotation."""
        return str(self._index(doc))

    def unit(self, value: Any) -> object:
        """The question's number, which its rotations share."""
        return int(value) % CYCLE

    def unit_name(self, row: Mapping[str, Any]) -> str:
        """The question's number, which its rotations share."""
        return str(row["index"] % CYCLE)

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
        # Only null is no option; the text "nan" is one, and stands for a missing column (the reference).
        options = {letter: _text(doc.get(letter, "nan")) for letter in "ABCD"}
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

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Hit or miss of every question, all its rotations together."""
        return [Tally(str(index), {"hit": hit, "n": 1.0}, hit) for index, hit in self._hits(rows).items()]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Share of the questions that are right, in percent."""
        return {"gpt_eval_score": 100 * ratio(sums["hit"], sums["n"])}

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
    scored_columns: ClassVar[tuple[str, ...]] = ("index", "question", "A", "B")
    main_metric: ClassVar[str] = "submission"
    scale: ClassVar[Scale] = ANSWERS
    submission_only: ClassVar[bool] = True

    def reference(self, doc: Doc) -> str:
        """The server knows."""
        return "(hidden)"

    def _score(self, doc: Doc, response: str) -> Parts:
        copied = ("question", "hint", *"ABCD", "category", "source", "L2-category", "split")
        texts = {key: None if doc.get(key) is None else str(doc[key]) for key in copied}
        return {"score": None, "index": self._index(doc), "prediction": response, **texts}

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """Every row is one answer to hand in."""
        return [Tally(str(row["sample_id"]), {"submission": 1.0}, 0.0) for row in rows]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """How many answers there are to hand in."""
        return {"submission": sums["submission"]}

    def breakdown(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Nothing is known before the server answers."""
        return {}


def _text(value: object) -> str | None:
    """The text of a cell, None for null and for the float nan that tables turn it into."""
    return None if value is None or value != value else str(value)


_REPO = "lmms-lab-encoder/MMBench"
TASKS = (
    MMBench("mmbench_en_dev_static", DataSource(_REPO, "dev", "en", rows=4329)),
    MMBenchTest("mmbench_en_test", DataSource(_REPO, "test", "en", rows=6666)),
    MMBench("embedded_mmbench", embedded("mmbench")),
)

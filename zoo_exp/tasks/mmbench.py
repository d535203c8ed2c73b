"""MMBench-EN: multiple choice, one row per rotation of the options; the test split is scored by a server."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

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
    mean,
    ratio,
)
from zoo_exp.tasks.columns import NUMBER, SCALAR_OR_NOTHING, TEXT, TEXT_OR_NOTHING, Columns
from zoo_exp.tasks.hidden_answers import Submission
from zoo_exp.tasks.scale import PERCENT

CYCLE = 1_000_000
_LETTERS = "ABCDE"
_DECORATIONS = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip
# Phrases after which the reference looks for a letter (data; 19 English ones and a few others).
_PHRASES = (
    *("".join(p) for p in product(("the ", ""), ("", "correct ", "best "), ("answer is",))),
    *("".join(p) for p in product(("the ", ""), ("correct ", "best "), ("option is",))),
    *("".join(p) for p in product(("the ", ""), ("", "correct "), ("choice is",))),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


@dataclass(frozen=True)
class MMBench(Task):
    """CircularEval with rule-based letter extraction (lmms-eval, lmms_eval/tasks/mmbench)."""

    family = "mmbench"
    summary = "multiple choice, right only if right under every rotation of the options"
    embedded_summary = "multiple choice, right only if right under every rotation of the options"
    columns = ("index", "question", "hint", "answer", *"ABCD", "category", "image")
    scored_columns = ("index", "answer", "A", "B")
    kinds: ClassVar[Columns] = {
        **{"index": NUMBER, "question": TEXT, "hint": TEXT_OR_NOTHING, "answer": TEXT},
        **dict.fromkeys(("category", "L2-category"), TEXT_OR_NOTHING),
        **dict.fromkeys("ABCDE", SCALAR_OR_NOTHING),
    }
    generation = GenerationSettings(1024, ("ASSISTANT:",))
    main_metric = "gpt_eval_score"
    answer_form = OPTION_LETTER
    scale = PERCENT
    unit_column = "index"
    rows_per_unit: ClassVar[int] = 4

    def prompt(self, doc: Doc, model_family: str) -> str:
        """Hint, question, the available options, and an answer instruction after an empty line."""
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
        """The question's number, shared by its rotations."""
        return int(value) % CYCLE

    def unit_name(self, row: Mapping[str, Any]) -> str:
        """The question's number, shared by its rotations."""
        return str(row["index"] % CYCLE)

    def image_id(self, doc: Doc) -> str:
        """The question's number, shared by its rotations."""
        return str(self._index(doc) % CYCLE)

    def reference(self, doc: Doc) -> str:
        """Letter and text of the correct option."""
        return f"{doc['answer']}. {doc[doc['answer']]}"

    def _index(self, doc: Doc) -> int:
        try:
            return int(doc["index"])
        except (TypeError, ValueError):
            raise InvalidValueError(f"{self.name}: index {doc['index']!r} is not a whole number") from None

    def _score(self, doc: Doc, response: str) -> Parts:
        early, late = _letters(doc, response)
        return {
            "score": float((early or late) == doc["answer"]),
            "index": self._index(doc),
            "answer": doc["answer"],
            "prefetched": early,
            "extracted": late,
            "category": str(doc.get("category", "")),
            "l2_category": str(doc.get("L2-category", "")),
        }

    def readable(self, doc: Doc, response: str) -> bool:
        """Whether one of the reference's rules finds a letter."""
        return any(_letters(doc, response))

    def _hits(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
        extracted = {row["index"]: row["extracted"] for row in rows}
        hits = circular(
            [Rotation(row["index"], row["answer"], row["prefetched"]) for row in rows],
            lambda row: extracted[row.index],
        )
        if not hits:
            raise InvalidValueError(
                f"{self.name}: no row has an index below {CYCLE}, so all unrotated rows are missing"
            )
        return hits

    def tallies(self, rows: Sequence[Mapping[str, Any]]) -> list[Tally]:
        """1 or 0 for every question, over all of its rotations."""
        return [Tally(str(index), {"hit": hit, "n": 1.0}, hit) for index, hit in self._hits(rows).items()]

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Share of correct questions, in percent."""
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
class MMBenchTest(Submission, MMBench):
    """Responses for submission to the MMBench server; nothing can be scored locally."""

    summary = "test questions, writes the table that the MMBench server scores"
    columns = ("index", "question", "hint", *"ABCD", "category", "image")
    kinds: ClassVar[Columns] = {**MMBench.kinds, "answer": TEXT_OR_NOTHING}
    scored_columns = ("index", "question", "A", "B")
    answer_form = ""

    def _score(self, doc: Doc, response: str) -> Parts:
        copied = ("question", "hint", *"ABCD", "category", "source", "L2-category", "split")
        texts = {key: None if doc.get(key) is None else str(doc[key]) for key in copied}
        return {"score": None, "index": self._index(doc), "prediction": response, **texts}


def _letters(doc: Doc, response: str) -> tuple[str | None, str | None]:
    """The letter of a response without and with the fallback."""
    # Only null means no option; the text "nan" is an option, as in the reference.
    options = {letter: _text(doc.get(letter, "nan")) for letter in "ABCD"}
    present = [letter for letter in options if options[letter] is not None]
    return prefetch(response, options), extract_letter(response, present)


def _text(value: object) -> str | None:
    """Text of a cell; None for null, and for the float nan to which tables convert it."""
    return None if value is None or value != value else str(value)


def prefetch(response: str, options: Mapping[str, str | None]) -> str | None:
    """The letter that the reference extracts without the fallback, by letter and then by option text, or None.

    Args:
        response: the response.
        options: letter (A to D) -> text, None for missing options. The text "nan" is a regular text.
    """
    return _by_letter(response) or _by_text(response, options)


def _by_letter(response: str) -> str | None:
    if "Failed to obtain answer via API" in response:
        return None
    tokens = response.split()
    bare = [letter for letter in _LETTERS if letter in tokens]
    # In a longer text a bare "A" may be the article.
    if len(bare) == 1 and not ("A" in tokens and len(tokens) > 3):
        return bare[0]
    for before, after in _DECORATIONS:
        found = [letter for letter in _LETTERS if before + letter + after in tokens]
        if len(found) == 1:
            return found[0]
    return None


def _by_text(response: str, options: Mapping[str, str | None]) -> str | None:
    text = response.lower()
    found = [letter for letter, option in options.items() if option is not None and option.lower() in text]
    return found[0] if len(found) == 1 else None


def extract_letter(response: str, letters: Sequence[str]) -> str | None:
    """Static fallback: the letter at the position with the highest priority; the last one if there are several."""
    text = response.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    padded, bare = f" {text} ", text.strip()
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(padded), letter))
        for priority, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            found.append((priority, padded.rfind(form.format(letter)), letter))
    lower = padded.lower()
    for phrase in _PHRASES:
        start = lower.find(phrase)
        if start >= 0:
            found += [(7, padded.find(letter, start + len(phrase)), letter) for letter in letters]
    found = [candidate for candidate in found if candidate[1] >= 0]
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    return max(found)[2] if found else None


@dataclass(frozen=True)
class Rotation:
    """One rotation of a question: index, reference letter, and letter extracted without the fallback (or None)."""

    index: int
    answer: str
    prefetched: str | None


def circular(rows: Sequence[Rotation], resolve: Callable[[Rotation], str | None]) -> dict[int, int]:
    """Correct (1) or wrong (0) for every question whose unrotated row (index below 1,000,000) is present.

    A question is correct if all of its rotations are. Letters extracted without the fallback are compared first. Only
    if all of these are correct, `resolve` is applied to the others by ascending index, until the first wrong one.

    Args:
        rows: rows in any order; rotations of one question share `index` modulo 1,000,000.
        resolve: fallback for rows without a letter.
    """
    groups: dict[int, list[Rotation]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.index):
        groups[row.index % CYCLE].append(row)
    hits: dict[int, int] = {}
    for question, group in groups.items():
        if group[0].index >= CYCLE:
            continue  # no unrotated row: the reference ignores the question
        read = all(row.prefetched in (None, row.answer) for row in group)
        hits[question] = int(
            read and all(resolve(row) == row.answer for row in group if row.prefetched is None)
        )
    return hits


_REPO = "lmms-lab-encoder/MMBench"
TASKS = (
    MMBench("mmbench_en_dev_static", DataSource(_REPO, "dev", "en", rows=4329)),
    MMBenchTest("mmbench_en_test", DataSource(_REPO, "test", "en", rows=6666)),
    MMBench("embedded_mmbench", embedded("mmbench")),
)

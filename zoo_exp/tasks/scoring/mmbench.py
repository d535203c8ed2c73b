"""MMBench: which letter a response means, and circular evaluation (spec: benchmarks 7)."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

CYCLE = 1_000_000
_LETTERS = "ABCDE"
_DECORATIONS = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip
# The reference's phrases after which it looks for a letter (data; 19 English ones and a few others).
_PHRASES = (
    *("".join(p) for p in product(("the ", ""), ("", "correct ", "best "), ("answer is",))),
    *("".join(p) for p in product(("the ", ""), ("correct ", "best "), ("option is",))),
    *("".join(p) for p in product(("the ", ""), ("", "correct "), ("choice is",))),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def prefetch(response: str, options: Mapping[str, str | None]) -> str | None:
    """The letter that the reference reads without help, by letter and then by option text; None if it cannot.

    Args:
        response: What the model said.
        options: Letter (A to D) -> text, None where the option is missing. The text "nan" is a text.
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
    """The static fallback: the letter at the most telling place of a response, the later one of equals."""
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
class Row:
    """One rotation of a question: its index, gold letter, and the letter read without help (or None)."""

    index: int
    answer: str
    prefetched: str | None


def circular(rows: Sequence[Row], resolve: Callable[[Row], str | None]) -> dict[int, int]:
    """Hit (1) or miss (0) of every question whose unrotated row (index below 1,000,000) is there.

    A question is right when all its rotations are. The letters read without help are looked at first; only
    where those are all right, `resolve` reads the others in ascending index until the first wrong one.

    Args:
        rows: Rows in any order; copies of one question share `index` modulo 1,000,000.
        resolve: The fallback for a row without a letter.
    """
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.index):
        groups[row.index % CYCLE].append(row)
    hits: dict[int, int] = {}
    for question, group in groups.items():
        if group[0].index >= CYCLE:
            continue  # no unrotated row: the reference has no such question
        read = all(row.prefetched in (None, row.answer) for row in group)
        hits[question] = int(
            read and all(resolve(row) == row.answer for row in group if row.prefetched is None)
        )
    return hits

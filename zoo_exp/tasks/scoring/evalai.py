"""Answer normalisation of the VQA challenge, as in lmms-eval (lmms_eval/tasks/_task_utils/vqa_eval_metric.py)."""

import re
from functools import lru_cache

from zoo_exp.tasks.scoring.evalai_tables import ARTICLES, CONTRACTIONS, NUMBERS, PUNCTUATION

_ANY_PUNCTUATION = re.compile("[" + re.escape("".join(PUNCTUATION)) + ".]")
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The reference passes re.UNICODE (32) as the argument `count`, so that at most 32 periods are removed.
_PERIODS_REMOVED = 32


def split_possessive(text: str) -> str:
    """Word step, used by TextVQA only: lower case, no commas, no question marks, "'s" as a separate word."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def remove_punctuation(text: str) -> str:
    """Punctuation step.

    A mark that occurs next to a blank anywhere in the text is removed (all marks are, if the text contains a number
    like 1,000); otherwise it is replaced by a blank. Periods are removed unless followed by a digit.
    """
    if not _ANY_PUNCTUATION.search(text):
        return text
    numeric = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    # The conditions refer to the original text, so the order of the marks does not matter.
    for mark in set(_ANY_PUNCTUATION.findall(text)) - {"."}:
        gone = numeric or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if gone else " ")
    return _PERIOD.sub("", out, count=_PERIODS_REMOVED)


def normalize_words(text: str) -> str:
    """Digit and article step: number words to digits, no articles, "dont" to "don't"."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalize_vqa(text: str) -> str:
    """Normalise an answer for VQAv2: one line, without punctuation, articles and number words.

    >>> normalize_vqa(" The two dogs. ")
    '2 dogs'
    """
    line = text.replace("\n", " ").replace("\t", " ").strip()
    return normalize_words(remove_punctuation(line))


@lru_cache(maxsize=1 << 16)
def normalize_textvqa(text: str) -> str:
    """Normalise an answer for TextVQA: the word step, followed by the two steps of VQAv2.

    >>> normalize_textvqa("It's 1,000")
    "it 's 1000"
    """
    return normalize_vqa(split_possessive(text))

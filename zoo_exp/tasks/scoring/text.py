"""Comparisons of a whole response with the reference: GQA, POPE, MME, ScienceQA, SEED-Bench."""

import string

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, gold: str) -> float:
    """GQA: equality in lower case without ASCII punctuation; inner blanks are significant.

    The reference lower-cases fixed-width strings, so that a letter with a longer lower-case form is truncated.
    """
    return float(_plain(prediction) == _plain(gold))


def _plain(text: str) -> str:
    return text.lower()[: len(text)].translate(_NO_PUNCTUATION)


def yes_no_word(response: str) -> str:
    """POPE: the whole response in lower case; "yes." is not counted as yes."""
    return response.strip().lower()


def yes_no_prefix(response: str) -> str:
    """MME: `yes`, `no` or `other`, from the first four characters without periods."""
    text = response.lower().strip().replace(".", "")
    if text in ("yes", "no"):
        return text
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    head = text[:4]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def option_letter(response: str, gold: str) -> float:
    """ScienceQA: the letter alone in either case, or a capital letter followed by a period."""
    if response.lower() == gold.lower():
        return 1.0
    if len(response) >= 2 and response[0].isupper() and response[1] == ".":
        return float(response[0] == gold)
    return 0.0


def first_letter(response: str, gold: str) -> float:
    """SEED-Bench: the first character, in either case."""
    return float(bool(response) and response[0].lower() == gold.lower())

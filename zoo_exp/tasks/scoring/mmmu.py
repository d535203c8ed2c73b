"""MMMU: reading a letter or an open answer out of a response (spec: benchmarks 8)."""

import re
from collections.abc import Mapping, Sequence

_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def parse_choice(response: str, options: Mapping[str, str]) -> str | None:
    """The letter of a multiple-choice response; None where the reference would draw one at random.

    Args:
        response: What the model said.
        options: Letter -> text of the option, in order.
    """
    text = response
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in options if form.format(letter) in text]
        if found:
            # Equal places, -1 included, leave the first letter, as argmax does in the reference.
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > 5:
        lower = text.lower()
        found = [letter for letter, option in options.items() if option.lower() in lower]
        if found:
            return max(found, key=lambda letter: lower.rfind(options[letter].lower()))
    return None


def extract_numbers(text: str) -> list[str]:
    """Numbers as written: with thousands commas, then scientific, then plain."""
    return _COMMAS.findall(text) + _SCIENTIFIC.findall(text) + _SIMPLE.findall(text)


def normalize_open(text: str) -> list[str | float]:
    """A number rounded to 2 places, or the lower-case text; one character gets a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def parse_open(response: str) -> list[str | float]:
    """All that an open response may mean: its telling ends and the numbers in them, without repeats."""
    response = response.strip().strip(".").lower()
    parts = response.split("\n")
    ends = []
    for i, part in enumerate(parts):
        indicators = (*_INDICATORS, "=") if i == len(parts) - 1 else _INDICATORS
        end = ""
        for indicator in indicators:
            if indicator in part:
                tail = part.rsplit(indicator, 1)[-1].strip()
                end = tail if not end or len(tail) < len(end) else end
        if end and end not in (":", ",", ".", "!", "?", ";", "'"):
            ends.append(end)
    ends = ends or [response]
    texts = ends + [number for end in ends for number in extract_numbers(end)]
    return list(dict.fromkeys(value for text in texts for value in normalize_open(text)))


def open_is_right(predictions: Sequence[str | float], gold: str | Sequence[str]) -> bool:
    """Whether a predicted text contains a gold text, or a predicted number equals a gold number."""
    golds = [gold] if isinstance(gold, str) else gold
    wanted = [value for text in golds for value in normalize_open(text)]
    return any(
        want in got if isinstance(got, str) and isinstance(want, str) else got == want
        for got in predictions
        for want in wanted
    )

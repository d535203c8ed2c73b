"""Words that a model's tokenizer does not know, such as most words on the embedded models."""

from collections.abc import Iterable
from typing import Any

SHOWN = 8
"""Words that a message names."""


def unknown_words(processor: Any, texts: Iterable[str]) -> tuple[str, ...]:
    """Words that become the tokenizer's unknown token, in the order in which they first occur.

    Args:
        processor: of a model; None, or one without a tokenizer with an unknown token, gives no words.
        texts: questions.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    unknown = getattr(tokenizer, "unk_token_id", None)
    if tokenizer is None or unknown is None:
        return ()
    words = dict.fromkeys(word for text in texts for word in text.replace("?", " ").split())
    return tuple(w for w in words if unknown in tokenizer(w, add_special_tokens=False)["input_ids"])


def sentence(model: str, words: tuple[str, ...]) -> str:
    """The words as a line for the user; empty without any."""
    if not words:
        return ""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"words that {model} does not know: {', '.join(words[:SHOWN])}{more}"

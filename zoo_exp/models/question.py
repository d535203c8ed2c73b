"""Find the question's tokens in a prompt, group them into words, and extract keywords."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_WORD_STARTS = ("\u2581", "\u0120")
"""Markers of SentencePiece and byte-level tokenizers for pieces that start a word."""

_PROMPT_SENTENCES = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
_FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "have",
        "has",
        "had",
        "do",
        "does",
        "did",
        "it",
        "they",
        "he",
        "she",
        "we",
        "you",
        "i",
        "what",
        "where",
        "when",
        "why",
        "how",
        "who",
        "which",
        "and",
        "or",
        "but",
        "so",
        "if",
        "then",
        "question",
        "answer",
        "to",
        "for",
        "with",
        "by",
        "from",
        "at",
        "into",
        "onto",
        "upon",
    ]
)


def keywords(question: str) -> list[str]:
    """Keywords of a question as in MMTok for LLaVA (`mmtok/core/text_processor.py`, d1522cd).

    Removes the prompt sentences of the benchmarks, then punctuation, then 47 filler words, ignoring case. If nothing is
    left, the text without the prompt sentences is split at white space, including punctuation.

    >>> keywords("What color is the dog's collar?")
    ['color', 'dog', 's', 'collar']

    Args:
        question: the user's message, without the image placeholder.
    """
    for sentence in _PROMPT_SENTENCES:
        question = question.replace(sentence, "")
    kept = [word for word in re.findall(r"\b\w+\b", question) if word.lower() not in _FILLERS]
    return kept or question.split()


@dataclass(frozen=True)
class Question:
    """Tokenizer settings for finding the question in a prompt.

    Attributes:
        suffix: ids after the question at the end of a prompt (start of the assistant's turn), if known.
        special: ids of special tokens.
        tokenizer: the tokenizer, for word numbers, or None.
    """

    suffix: tuple[int, ...] = ()
    special: frozenset[int] = frozenset()
    tokenizer: Any = field(default=None, compare=False)

    def select(self, row: Tensor, mask: Tensor, image_token_id: int) -> tuple[Tensor, Tensor | None]:
        """The question's tokens in one prompt.

        These are the text tokens after the last placeholder, without the start of the assistant's turn and special
        tokens; if nothing follows the images, all text tokens.

        Args:
            row: `input_ids` [L].
            mask: attention mask [L].
            image_token_id: the placeholder.

        Returns:
            Their ids [n], and word numbers [n] (None without a tokenizer).
        """
        ids = row[mask.bool()].tolist()
        images = [i for i, t in enumerate(ids) if t == image_token_id]
        text = self._words(ids[images[-1] + 1 :] if images else ids)
        if not text:
            text = self._words([t for t in ids if t != image_token_id])
        words = None if self.tokenizer is None else torch.tensor(self._numbers(text), dtype=torch.int64)
        return torch.tensor(text, dtype=torch.int64, device=row.device), words

    def fields(
        self, text: Tensor, words: Tensor | None, embed: Callable[[Tensor], Tensor], device: torch.device
    ) -> dict[str, Any]:
        """Fields of `VisualTokens` for one prompt's question: `text`, `text_words` and `question_words`.

        Args:
            text: ids from `select` [n].
            words: word numbers from `select` [n], or None.
            embed: the language model's input embeddings.
            device: device of the visual tokens.
        """
        apart = {form: embed(ids.to(text.device)).to(device) for form, ids in self.words(text).items()}
        numbers = None if words is None else words.to(device)
        return {"text": embed(text).to(device), "text_words": numbers, "question_words": apart}

    def message(self, text: Tensor) -> str:
        """The user's message, decoded from the ids of `select` [n]; empty without a tokenizer."""
        return "" if self.tokenizer is None else str(self.tokenizer.decode(text.tolist())).strip()

    def words(self, text: Tensor) -> dict[str, Tensor]:
        """Ids of the question's words, each tokenised separately: `keywords`, and `all` as in MMTok for Qwen2.5-VL.

        Args:
            text: ids from `select` [n].

        Returns:
            Ids [m] by form; empty without a tokenizer.
        """
        if self.tokenizer is None:
            return {}
        message = self.message(text)
        forms = {"keywords": keywords(message), "all": f"Question: {message}".split()}
        return {name: self._tokenised(words) for name, words in forms.items()}

    def _tokenised(self, words: Sequence[str]) -> Tensor:
        ids = [i for word in words for i in self.tokenizer(word, add_special_tokens=False)["input_ids"]]
        return torch.tensor(ids, dtype=torch.int64)

    def _words(self, ids: list[int]) -> list[int]:
        n = len(self.suffix)
        if n and tuple(ids[-n:]) == self.suffix:
            ids = ids[:-n]
        return [t for t in ids if t not in self.special]

    def _numbers(self, ids: Sequence[int]) -> list[int]:
        pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
        marked = any(p.startswith(_WORD_STARTS) for p in pieces)
        numbers: list[int] = []
        for piece in pieces:
            starts = not numbers or not marked or piece.startswith(_WORD_STARTS)
            numbers.append(len(numbers) and numbers[-1] + int(starts))
        return numbers


def question_of(processor: Any) -> Question:
    """Derive the settings from the processor's tokenizer and chat template."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        return Question()
    suffix: tuple[int, ...] = ()
    turn = [{"role": "user", "content": [{"type": "text", "text": "word"}]}]
    template = getattr(processor, "chat_template", None)
    if template is not None:
        opened = processor.apply_chat_template(turn, add_generation_prompt=True)
        closed = processor.apply_chat_template(turn, add_generation_prompt=False)
        if isinstance(opened, str) and opened.startswith(closed):
            suffix = tuple(tokenizer(opened[len(closed) :], add_special_tokens=False)["input_ids"])
    return Question(suffix, frozenset(tokenizer.all_special_ids), tokenizer)

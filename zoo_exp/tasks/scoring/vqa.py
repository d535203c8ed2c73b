"""Soft VQA accuracy (Antol et al., ICCV 2015; lmms_eval/tasks/vqav2)."""

from collections.abc import Callable, Sequence

from zoo_exp.errors import InvalidValueError


def soft_accuracy(prediction: str, answers: Sequence[str], normalize: Callable[[str], str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3), after normalising both sides.

    With ten annotators, of whom k agree with the prediction, this is 0.3, 0.6, 0.9 and 1 for k = 1, 2, 3 and 4.

    Raises:
        InvalidValueError: there are no annotators' answers.
    """
    n = len(answers)
    if not n:
        raise InvalidValueError("no reference answers: a VQA question needs the annotators' answers")
    wanted = normalize(prediction)
    agree = sum(normalize(answer) == wanted for answer in answers)
    left_out_agrees = min(1.0, max(0, agree - 1) / 3)
    left_out_differs = min(1.0, agree / 3)
    return (agree * left_out_agrees + (n - agree) * left_out_differs) / n


def answer_texts(answers: Sequence[object]) -> list[str]:
    """The annotators' answers as strings: VQAv2 stores dicts, TextVQA strings."""
    texts = []
    for answer in answers:
        text = answer.get("answer") if isinstance(answer, dict) else answer
        if not isinstance(text, str):
            raise InvalidValueError(f"a reference answer must be a string, got {text!r}")
        texts.append(text)
    return texts

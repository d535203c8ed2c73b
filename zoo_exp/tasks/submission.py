"""Files that servers score: VQAv2 and TextVQA at EvalAI, MMBench's table (spec: benchmarks 2, 3, 7)."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.core.errors import InvalidValueError
from zoo_exp.tasks.base import Task
from zoo_exp.tasks.files import write_bytes
from zoo_exp.tasks.xlsx import workbook

Row = Mapping[str, Any]
_MMBENCH = ("index", "question", "hint", *"ABCD", "prediction", "category", "source", "L2-category", "split")


def write_submission(
    task: Task, rows: Sequence[Row], folder: Path, stem: str, other_ids: Iterable[int] = ()
) -> Path:
    """Write the file that the task's server takes.

    Args:
        task: One of `SUBMISSIONS`.
        rows: What `task.aggregate` takes.
        folder: Where to.
        stem: File name without its ending.
        other_ids: VQAv2 only: question ids of the full test split that the upload must list too; their answer
            is empty, as in LLaVA's script.

    Returns:
        The path of the file.

    Raises:
        InvalidValueError: the task has no server, or there are no rows.
    """
    if task.name not in SUBMISSIONS:
        raise InvalidValueError(
            f"{task.name} has no submission file; those that have one: {', '.join(SUBMISSIONS)}"
        )
    if not rows:
        raise InvalidValueError(f"{task.name}: no rows to hand in")
    ending, make = SUBMISSIONS[task.name]
    path = folder / f"{stem}.{ending}"
    write_bytes(path, make(rows, other_ids))
    return path


def vqav2_answers(rows: Sequence[Row], other_ids: Iterable[int] = ()) -> bytes:
    """EvalAI's list of `{"question_id", "answer"}`; the server normalises the answers."""
    answers = {int(row["question_id"]): str(row["answer"]) for row in rows}
    missing = {int(question): "" for question in other_ids if int(question) not in answers}
    return _answer_list({**answers, **missing})


def textvqa_answers(rows: Sequence[Row], _: Iterable[int] = ()) -> bytes:
    """The same with normalised answers, as the reference writes them."""
    return _answer_list({int(row["sample_id"]): str(row["answer"]) for row in rows})


def mmbench_table(rows: Sequence[Row], _: Iterable[int] = ()) -> bytes:
    """The table of questions and predictions that the MMBench server reads."""
    ordered = sorted(rows, key=lambda row: int(row["index"]))
    return workbook(_MMBENCH, [[row.get(name) for name in _MMBENCH] for row in ordered])


def _answer_list(answers: Mapping[int, str]) -> bytes:
    listed = [{"question_id": question, "answer": answer} for question, answer in sorted(answers.items())]
    return json.dumps(listed).encode()


SUBMISSIONS: dict[str, tuple[str, Callable[[Sequence[Row], Iterable[int]], bytes]]] = {
    "vqav2_testdev": ("json", vqav2_answers),
    "textvqa_val": ("json", textvqa_answers),
    "textvqa_val_ocr": ("json", textvqa_answers),
    "mmbench_en_test": ("xlsx", mmbench_table),
}

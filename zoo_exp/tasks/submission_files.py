"""Submission files for evaluation servers: VQAv2 and TextVQA (EvalAI), MMBench (formats of lmms-eval)."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.files import write_bytes
from zoo_exp.tasks.base import Task
from zoo_exp.tasks.xlsx import workbook

Row = Mapping[str, Any]
_MMBENCH = ("index", "question", "hint", *"ABCD", "prediction", "category", "source", "L2-category", "split")


def write_submission(
    task: Task, rows: Sequence[Row], folder: Path, stem: str, other_ids: Iterable[int] = ()
) -> Path:
    """Write the submission file of a task.

    Args:
        task: one of `SUBMISSIONS`.
        rows: rows as for `task.aggregate`.
        folder: output folder.
        stem: file name without suffix.
        other_ids: VQAv2 only: other question ids of the full test split that the upload must contain; their answer is
            empty, as in LLaVA's script.

    Returns:
        Path of the file.

    Raises:
        InvalidValueError: the task has no server, or there are no rows.
    """
    check_has_server(task)
    if not rows:
        raise InvalidValueError(f"{task.name}: no rows for the submission file")
    ending, make = SUBMISSIONS[task.name]
    path = folder / f"{stem}.{ending}"
    write_bytes(path, make(rows, other_ids))
    return path


def check_has_server(task: Task) -> None:
    """Check that a task has a submission file.

    Raises:
        InvalidValueError: it has none; the message lists the tasks that do.
    """
    if task.name not in SUBMISSIONS:
        raise InvalidValueError(
            f"{task.name} has no submission file; tasks with one: {', '.join(SUBMISSIONS)}"
        )


def write_submissions(tasks: Iterable[Task], records: Iterable[Row], folder: Path) -> list[Path]:
    """Write submission files for every task with a server and every arm, from the records of a run.

    Args:
        tasks: tasks of the run; those without a server are skipped.
        records: rows with `task`, `arm`, `sample_id` and `parts`.
        folder: output folder; it is only created if there are files.

    Returns:
        The files, named after task and arm.
    """
    wanted = {task.name: task for task in tasks if task.name in SUBMISSIONS}
    answers: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for record in records:
        if record["task"] in wanted:
            answers[record["task"], record["arm"]].append(
                {"sample_id": record["sample_id"], **record["parts"]}
            )
    stems: dict[str, tuple[str, str]] = {}
    for key in answers:
        stem = base = _file_name(" ".join(key))
        number = 1
        while stem in stems:  # labels that differ only in characters that are not allowed in file names
            number += 1
            stem = f"{base}_{number}"
        stems[stem] = key
    return [
        write_submission(wanted[name], answers[name, arm], folder, stem)
        for stem, (name, arm) in stems.items()
    ]


def _file_name(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in text)


def vqav2_answers(rows: Sequence[Row], other_ids: Iterable[int] = ()) -> bytes:
    """List of `{"question_id", "answer"}` for EvalAI; the server normalises the answers."""
    answers = {int(row["question_id"]): str(row["answer"]) for row in rows}
    missing = {int(question): "" for question in other_ids if int(question) not in answers}
    return _answer_list({**answers, **missing})


def textvqa_answers(rows: Sequence[Row], _: Iterable[int] = ()) -> bytes:
    """List of `{"question_id", "answer"}` with normalised answers, as in the reference."""
    return _answer_list({int(row["sample_id"]): str(row["answer"]) for row in rows})


def mmbench_table(rows: Sequence[Row], _: Iterable[int] = ()) -> bytes:
    """Table of questions and predictions for the MMBench server."""
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

"""Questions that an arm could not answer: which arms and questions take part in a task's numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from zoo_exp.runs.run_answers import Answers, ArmAnswers
from zoo_exp.statistics.arm_rows import ArmRow


@dataclass(frozen=True)
class Applicable:
    """The records that numbers are made of.

    Attributes:
        answers: without those that are not applicable.
        left_out: (task, arm id) of arms that have no number in a task, because images of it are not applicable to them.
        notes: one sentence for each reason.
    """

    answers: Answers
    left_out: frozenset[tuple[str, str]] = frozenset()
    notes: list[str] = field(default_factory=list)


def applicable(answers: Answers, rows: Sequence[ArmRow]) -> Applicable:
    """Leave out questions that no arm could answer, and of each task the arms that could not answer some of the others.

    An arm without some of the questions has no number in that task: a metric over other questions than those of the
    other arms would not compare, and leaving its questions out of every arm would change their numbers.

    Args:
        answers: from `run_answers.read_answers`.
        rows: the rows of the table.
    """
    found: dict[str, dict[str, ArmAnswers]] = {}
    for name, task in answers.tasks.items():
        refused = {arm: own.where(own.values("refused") > 0) for arm, own in task.arms.items()}
        if any(map(len, refused.values())):
            found[name] = {arm: own for arm, own in refused.items() if len(own)}
    labels = {member: row.label for row in rows for member in row.members}
    notes: list[str] = []
    left_out: set[tuple[str, str]] = set()
    tasks = dict(answers.tasks)
    for name, refused in sorted(found.items(), key=lambda one: min(map(_place, one[1].values()))):
        task = tasks[name]
        counts = np.zeros(len(task.sample_ids), int)
        for own in refused.values():
            counts[own.values("sample")] += 1
        nobody, questions = counts == len(task.arms), len(counts)
        if nobody.any():
            why = _reason([_split(own, nobody) for own in refused.values()])
            notes.append(f"{name}: {nobody.sum()} of {questions} questions not applicable to any arm: {why}")
        others = {arm: _split(own, ~nobody) for arm, own in refused.items()}
        others = {arm: own for arm, own in others.items() if len(own)}
        for arm, own in sorted(others.items(), key=lambda one: _place(one[1])):
            left_out.add((name, arm))
            notes.append(
                f"{name}: {labels.get(arm, arm)} not applicable to {len(own)} of "
                f"{questions} questions, so that it has no number: {_reason([own])}"
            )
        kept = {arm: _split(own, ~nobody) for arm, own in task.arms.items() if arm not in others}
        tasks[name] = task.with_arms({arm: own for arm, own in kept.items() if len(own)})
    return Applicable(replace(answers, tasks=tasks), frozenset(left_out), notes)


def _split(arm: ArmAnswers, chosen: NDArray[np.bool_]) -> ArmAnswers:
    """The records of an arm on some questions of its task."""
    return arm.where(chosen[arm.values("sample")])


def _place(arm: ArmAnswers) -> int:
    """Where the first record of an arm was read."""
    return int(arm.columns["place"][0])


def _reason(arms: Sequence[ArmAnswers]) -> str:
    """The reason of the record that was read first."""
    first = min((arm for arm in arms if len(arm)), key=_place)
    return first.store.reasons[int(first.columns["refused"][0])]

"""The records of one task from two runs, or twice from one, with common numbers for questions and images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zoo_exp.runs.packed import Column, Numbers
from zoo_exp.runs.run_answers import Answers, ArmAnswers, TaskAnswers


@dataclass(frozen=True)
class Questions:
    """What some arms of a side have recorded, by common number of the question.

    Attributes:
        recorded: whether an arm has a record of it.
        refused: whether it is not applicable to an arm.
        texts: `question` and `reference` -> hash of the text in the record that was read first; 0 for an empty text.
    """

    recorded: NDArray[np.bool_]
    refused: NDArray[np.bool_]
    texts: dict[str, Numbers]


class Joint:
    """Two sides of a comparison.

    Args:
        first: records of a task, with hashes of texts.
        second: the same for the other side.
    """

    def __init__(self, first: TaskAnswers, second: TaskAnswers) -> None:
        self._sides = first, second
        self._sample_ids, self._samples = _common(first.sample_ids, second.sample_ids)
        self._images, self._image = _common(first.images, second.images)

    def questions(self, side: int, arms: Sequence[ArmAnswers]) -> Questions:
        """What some arms of a side have recorded."""
        total = len(self._sample_ids)
        place = np.full(total, np.iinfo(np.int64).max)
        refused = np.zeros(total, bool)
        texts = {name: np.zeros(total, np.int64) for name in ("question", "reference")}
        for arm in arms:
            samples, own = self._numbers(side, arm), arm.values("place")
            earlier = own < place[samples]
            place[samples[earlier]] = own[earlier]
            for name, hashes in texts.items():
                hashes[samples[earlier]] = arm.values(name)[earlier]
            refused[samples[arm.values("refused") > 0]] = True
        return Questions(place < np.iinfo(np.int64).max, refused, texts)

    def count(self, side: int, arm: str, kept: NDArray[np.bool_]) -> int:
        """Number of records of an arm on some questions."""
        own = self._sides[side].arms.get(arm)
        return 0 if own is None else int(kept[self._numbers(side, own)].sum())

    def answers(
        self, arms: Sequence[Sequence[str]], kept: NDArray[np.bool_], names: Sequence[Sequence[str]]
    ) -> Answers:
        """Records of both sides on some questions.

        Args:
            arms: ids of the arms of each side; those without records are left out.
            kept: whether a question is one of them, by common number.
            names: the ids that they get.
        """
        found = {}
        for side, task in enumerate(self._sides):
            for arm, name in zip(arms[side], names[side], strict=True):
                own = task.arms.get(arm)
                if own is not None:
                    own = self._renumbered(side, own)
                    found[name] = own.where(kept[own.values("sample")])
        name = self._sides[0].name
        known = {arm: own for arm, own in found.items() if len(own)}
        return Answers({name: TaskAnswers(name, self._sample_ids, self._images, [""], known)}, [])

    def _numbers(self, side: int, arm: ArmAnswers) -> Numbers:
        """Common number of the question of each record."""
        common, samples = self._samples[side], arm.values("sample")
        return samples if common is None else common[samples]

    def _renumbered(self, side: int, arm: ArmAnswers) -> ArmAnswers:
        columns = dict(arm.columns)
        for name, common in (("sample", self._samples[side]), ("image", self._image[side])):
            if common is not None:
                columns[name] = Column("q", common[arm.values(name)])
                columns[name].pack(last=True)
        return replace(arm, columns=columns)


def _common(
    first: list[str], second: list[str]
) -> tuple[list[str], tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]]:
    """All names, and for each side the number among them of each of its names; None if they are the same."""
    if first is second:
        return first, (None, None)
    numbers = {name: number for number, name in enumerate(first)}
    own = np.fromiter((numbers.setdefault(name, len(numbers)) for name in second), np.int64, len(second))
    return list(numbers), (None, own)

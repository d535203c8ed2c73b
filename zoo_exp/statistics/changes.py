"""The questions on which two arms differ. Their texts are read where they are shown."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.statistics.alignment import Aligned
from zoo_exp.statistics.intervals import Floats

COLUMNS = (
    *("task", "sample_id", "question", "reference", "difference"),
    *("first_score", "first_response", "second_score", "second_response"),
)


class Both(NamedTuple):
    """The records of two arms on the same questions of a task, by seed."""

    task: str
    first: Sequence[Aligned]
    second: Sequence[Aligned]

    def scores(self) -> tuple[Floats, Floats]:
        """Mean score over the seeds of each arm [n]."""
        sides = self.first, self.second
        one, other = (np.stack([own.values("score") for own in side], axis=1) for side in sides)
        return one.mean(axis=1), other.mean(axis=1)


@dataclass(frozen=True)
class Changes:
    """Questions with different scores, the largest difference first, then in an order that a seed draws.

    Attributes:
        both: the arms on each task.
        tasks: number in `both` of each question.
        questions: its number there.
    """

    both: Sequence[Both]
    tasks: NDArray[np.int32]
    questions: NDArray[np.int32]

    @classmethod
    def of(cls, both: Sequence[Both], seed: int) -> "Changes":
        """Find the questions.

        Args:
            both: the arms on each task.
            seed: of the order.
        """
        tasks, questions, sizes, drawn = [], [], [], []
        for number, own in enumerate(both):
            one, other = own.scores()
            places = np.flatnonzero(one != other)
            ids = own.first[0].sample_ids
            tasks.append(np.full(len(places), number, np.int32))
            questions.append(places.astype(np.int32))
            sizes.append(np.abs((one - other)[places]))
            keys = (_drawn(seed, own.task, ids[place]) for place in places.tolist())
            drawn.append(np.fromiter(keys, np.uint64, len(places)))
        order = np.lexsort((np.concatenate(drawn), -np.concatenate(sizes)))
        return cls(both, np.concatenate(tasks)[order], np.concatenate(questions)[order])

    def __len__(self) -> int:
        return len(self.questions)

    def frame(self, most: int | None = None) -> pd.DataFrame:
        """Rows with `COLUMNS`, with the texts of the records; scores are means over seeds, responses of the first.

        Args:
            most: only the first questions; None for all.
        """
        scores: dict[int, tuple[Floats, Floats]] = {}
        lines = []
        for number, question in zip(self.tasks[:most].tolist(), self.questions[:most].tolist(), strict=True):
            own = self.both[number]
            if number not in scores:
                scores[number] = own.scores()
            one, other = (float(values[question]) for values in scores[number])
            first, second = own.first[0].record(question), own.second[0].record(question)
            ids = own.first[0].sample_ids
            line = [own.task, ids[question], first.get("question"), first.get("reference"), one - other]
            lines.append([*line, one, first.get("response"), other, second.get("response")])
        return pd.DataFrame(lines, columns=list(COLUMNS))


def _drawn(seed: int, task: str, sample_id: str) -> int:
    text = f"{seed}\0{task}\0{sample_id}".encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

"""Align the records of one task: the same questions under every arm, for paired comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from zoo_exp.files import Row
from zoo_exp.runs.packed import BLOCK
from zoo_exp.runs.run_answers import Answers, ArmAnswers
from zoo_exp.statistics.intervals import Floats
from zoo_exp.tasks.base import Task

COSTS = ("flops_tflop", "prefill_tflop", "selector_tflop")
IMAGE_ONLY = ("kept_tokens", "layer_tokens")
"""Columns without a value for questions without an image."""


@dataclass(frozen=True)
class Aligned(Sequence[Mapping[str, Any]]):
    """The records of one arm in the order of the questions; a sequence of mappings of sample id and score parts.

    The mappings are made when they are read, so that those of one arm at a time are in memory.

    Attributes:
        arm: the records.
        order: place of each question among them [n]; None if they are in this order.
        sample_ids: the questions [n].
    """

    arm: ArmAnswers
    order: NDArray[np.int32] | None
    sample_ids: list[str]

    def values(self, name: str) -> NDArray[Any]:
        """Values of a column of the records [n]."""
        values = self.arm.values(name)
        return values if self.order is None else values[self.order]

    def record(self, question: int) -> Row:
        """The whole record of a question, read again."""
        where = question if self.order is None else int(self.order[question])
        return self.arm.store.row(int(self.arm.columns["place"][where]))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        store, codes, places = self.arm.store, self.values("parts"), None
        for start in range(0, len(self), BLOCK):
            part = codes[start : start + BLOCK]
            if (part < 0).any():
                places = self.values("place") if places is None else places
                found = places[start : start + BLOCK].tolist()
                parts = [store.parts_of(*both) for both in zip(part.tolist(), found, strict=True)]
            else:
                parts = [store.parts[code] for code in part.tolist()]
            for sample, own in zip(self.sample_ids[start : start + BLOCK], parts, strict=True):
                yield {"sample_id": sample, **own}

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        where = number if self.order is None else int(self.order[number])
        columns = self.arm.columns
        parts = self.arm.store.parts_of(int(columns["parts"][where]), int(columns["place"][where]))
        return {"sample_id": self.sample_ids[number], **parts}


@dataclass(frozen=True)
class TaskSamples:
    """Questions of one task with responses under all A arms of `arm_ids`.

    Attributes:
        task: the task.
        arm_ids: arms, one per seed of a stochastic selector [A].
        sample_ids: questions with a response under every arm, sorted [n].
        image_ids: their images, sorted [G].
        clusters: image number of each question, 0 to G - 1 [n].
        n_visual: visual tokens before pruning; nan for questions without an image [n].
        rows: records of each arm [A].
        dropped: number of questions excluded because an arm has no response yet.
    """

    task: Task
    arm_ids: list[str]
    sample_ids: list[str]
    image_ids: list[str]
    clusters: NDArray[np.int64]
    n_visual: Floats
    rows: Sequence[Aligned]
    dropped: int

    @property
    def images(self) -> int:
        """G, the number of different images."""
        return len(self.image_ids)

    @property
    def keys(self) -> list[str]:
        """Image keys for resampling, the same in all tasks that share an image [G]."""
        return [self.task.image_key(image) for image in self.image_ids]

    def columns(self, members: Sequence[str]) -> list[int]:
        """Column numbers of the members of a table row that have records."""
        return [self.arm_ids.index(member) for member in members if member in self.arm_ids]

    def values(self, name: str, columns: Sequence[int] | None = None) -> Floats:
        """A column of the records under some arms, computed when it is asked for.

        Args:
            name: one of `MEASURED`: `score` (0 to 1), `kept_tokens` that entered the language model, for
                layer selectors `layer_tokens` (mean over decoder layers of those at their input), and TFLOP, nan if not
                recorded. Tokens are nan for questions without an image, and layer_tokens for input selectors.
            columns: numbers of the arms; None for all.

        Returns:
            Values [n, arms].
        """
        chosen = range(len(self.rows)) if columns is None else columns
        values = np.empty((len(chosen), len(self.sample_ids)))
        for place, column in enumerate(chosen):
            values[place] = self.rows[column].values(name)
        if name in IMAGE_ONLY:
            values[:, np.isnan(self.n_visual)] = np.nan
        return values.T

    def measured(self, columns: Sequence[int]) -> Floats:
        """Tokens that a budget limits: mean over layers for layer selectors, else tokens that entered [n, arms]."""
        layers = self.values("layer_tokens", columns)
        return np.where(np.isnan(layers), self.values("kept_tokens", columns), layers)


def align(answers: Answers, task: Task, arm_ids: Sequence[str]) -> TaskSamples | None:
    """Align the questions of `task` with responses under all `arm_ids` that have records; None if there are none."""
    mine = answers.tasks.get(task.name)
    present = [] if mine is None else [arm for arm in arm_ids if len(mine.arms.get(arm, ()))]
    if mine is None or not present:
        return None
    arms = [mine.arms[arm] for arm in present]
    counts = np.zeros(len(mine.sample_ids), np.int64)
    for arm in arms:
        counts[arm.values("sample")] += 1
    # Some metrics need all questions of an image (MME pairs): images with a missing response are excluded.
    lacking = (counts > 0) & (counts < len(arms))
    chosen = counts > 0
    if lacking.any():
        gaps, chosen = np.zeros(len(mine.images), bool), np.zeros(len(counts), bool)
        for arm in arms:
            gaps[arm.values("image")[lacking[arm.values("sample")]]] = True
        for arm in arms:
            chosen[arm.values("sample")[~gaps[arm.values("image")]]] = True
    numbers = sorted(np.flatnonzero(chosen).tolist(), key=mine.sample_ids.__getitem__)
    if not numbers:
        return None
    common = [mine.sample_ids[number] for number in numbers]
    wanted = np.array(numbers, np.int32)
    rows = [Aligned(arm, _order(arm, wanted, len(counts)), common) for arm in arms]
    n_visual = rows[0].values("n_visual")
    known, codes = np.unique(rows[0].values("image"), return_inverse=True)
    names = [mine.images[number] for number in known.tolist()]
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[by_name] = np.arange(len(names))
    return TaskSamples(
        task=task,
        arm_ids=present,
        sample_ids=common,
        image_ids=[names[place] for place in by_name],
        clusters=rank[codes],
        n_visual=np.where(n_visual > 0, n_visual, np.nan),
        rows=rows,
        dropped=int((counts > 0).sum()) - len(common),
    )


def _order(arm: ArmAnswers, wanted: NDArray[np.int32], questions: int) -> NDArray[np.int32] | None:
    """Place of each wanted question among the records of an arm [n]; None if they are in this order."""
    samples = arm.values("sample")
    if np.array_equal(samples, wanted):
        return None
    place = np.full(questions, -1, np.int32)
    place[samples] = np.arange(len(samples), dtype=np.int32)
    return place[wanted]

"""The missing answers of each cell: the samples without a record of some arm."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from zoo_exp.config.experiment import Cell
from zoo_exp.config.schema import ModelConfig
from zoo_exp.embedded.shipped import is_shipped, own_world
from zoo_exp.models.unknown_words import sentence, unknown_words
from zoo_exp.tasks import data
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks.base import Task
from zoo_exp.tasks.own_files import OwnFile

Done = Mapping[str, Collection[str]]
"""Arm id -> ids of the samples with a record."""
ROWS = 1000
"""Questions of a file whose words are looked up."""


@dataclass(frozen=True)
class Work:
    """A cell with its rows and its missing answers.

    Attributes:
        ids: sample ids of all rows.
        done: recorded samples by arm.
        todo: row numbers of the samples without a record of some arm.
    """

    cell: Cell
    task: Task
    rows: data.Rows
    ids: list[str]
    done: Done
    todo: list[int]

    @property
    def answers(self) -> int:
        """Number of missing answers."""
        return sum(
            self.ids[place] not in self.done.get(arm.id, ()) for place in self.todo for arm in self.cell.arms
        )

    @property
    def total(self) -> int:
        """Number of answers of the whole cell."""
        return len(self.ids) * len(self.cell.arms)

    def take(self, todo: Sequence[int], done: Done) -> "Work":
        """The same cell with the `todo` and `done` that rank 0 found."""
        return replace(self, todo=list(todo), done=done)

    def after(self, done: Done) -> "Work":
        """The same cell with these records."""
        todo = [
            place
            for place, name in enumerate(self.ids)
            if any(name not in done.get(arm.id, ()) for arm in self.cell.arms)
        ]
        return self.take(todo, done)


def own_questions(work: Sequence[Work], processor: Any, model: ModelConfig) -> list[str]:
    """What a user should know of a model that may not know the questions of his own file, as `ask` says it.

    Args:
        work: the cells; benchmarks are left out.
        processor: of the model.
        model: its configuration.
    """
    own = [item for item in work if item.todo and isinstance(item.task, OwnFile)]
    texts = [row["question"] for item in own for row in islice(item.rows.texts(), ROWS)]
    unknown = sentence(model.name, unknown_words(processor, texts))
    lines = [f"{', '.join(item.task.name for item in own)}: {unknown}"] if unknown else []
    return [*lines, own_world(model.name)] if own and is_shipped(model.path) else lines


def load_work(cell: Cell, root: str | None, limit: int | None) -> Work:
    """A cell with its rows and no records.

    Raises:
        InvalidValueError: two rows have the same sample id.
        MissingFileError: data that cannot be read.
    """
    task = get_task(cell.task)
    rows = data.load(task, root, limit)
    ids = rows.sample_ids(task)
    return Work(cell, task, rows, ids, {}, list(range(len(ids))))

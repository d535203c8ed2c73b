"""Registry of the benchmarks, with their prompts, scoring and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.registry import Registry
from zoo_exp.tasks.base import DataSource, GenerationSettings, Task
from zoo_exp.tasks.own_files import is_own_file, known, open_file

__all__ = [
    "REGISTRY",
    "DataSource",
    "Description",
    "GenerationSettings",
    "Task",
    "available",
    "describe",
    "get",
    "given",
    "is_own_file",
    "refuse_unknown",
    "register",
    "shown",
]

TaskType = TypeVar("TaskType", bound=Task | type[Task])

_NINE = ("gqa", "vqav2", "textvqa", "scienceqa", "pope", "mme", "mmbench", "mmmu", "seedbench")
HIDDEN = ("_validation", "_confirm")
"""Suffixes of additional splits of world 2's tasks, which `list tasks` omits."""

# A task, a task class, or a tuple of tasks that contains the one of that name.
REGISTRY: Registry[Any] = Registry(
    "task",
    "zoo_exp.tasks",
    {
        "embedded_gqa": "zoo_exp.tasks.gqa:TASKS",
        "embedded_vqav2": "zoo_exp.tasks.vqav2:TASKS",
        "embedded_textvqa": "zoo_exp.tasks.textvqa:TASKS",
        "embedded_scienceqa": "zoo_exp.tasks.scienceqa:TASKS",
        "embedded_pope": "zoo_exp.tasks.pope:TASKS",
        "embedded_mme": "zoo_exp.tasks.mme:TASKS",
        "embedded_mmbench": "zoo_exp.tasks.mmbench:TASKS",
        "embedded_mmmu": "zoo_exp.tasks.mmmu:TASKS",
        "embedded_seedbench": "zoo_exp.tasks.seedbench:TASKS",
        **{
            f"{view}_{name}{split}": "zoo_exp.tasks.world2:TASKS"
            for view in ("world2", "world2_tiles", "world2_sizes")
            for split in ("", *HIDDEN)
            for name in _NINE
        },
        "gqa": "zoo_exp.tasks.gqa:TASKS",
        "vqav2_val": "zoo_exp.tasks.vqav2:TASKS",
        "vqav2_testdev": "zoo_exp.tasks.vqav2:TASKS",
        "textvqa_val": "zoo_exp.tasks.textvqa:TASKS",
        "textvqa_val_ocr": "zoo_exp.tasks.textvqa:TASKS",
        "scienceqa_img": "zoo_exp.tasks.scienceqa:TASKS",
        "pope": "zoo_exp.tasks.pope:TASKS",
        "pope_adv": "zoo_exp.tasks.pope:TASKS",
        "pope_pop": "zoo_exp.tasks.pope:TASKS",
        "pope_random": "zoo_exp.tasks.pope:TASKS",
        "mme": "zoo_exp.tasks.mme:TASKS",
        "mmbench_en_dev_static": "zoo_exp.tasks.mmbench:TASKS",
        "mmbench_en_test": "zoo_exp.tasks.mmbench:TASKS",
        "mmmu_val": "zoo_exp.tasks.mmmu:TASKS",
        "mmmu_val_serial": "zoo_exp.tasks.mmmu:TASKS",
        "seedbench": "zoo_exp.tasks.seedbench:TASKS",
        "seedbench_image": "zoo_exp.tasks.seedbench:TASKS",
    },
    "List them: python -m zoo_exp list tasks. Your own: task=FILE.jsonl (.csv, .parquet), or an installed package with "
    "the entry point zoo_exp.tasks (docs/adding_a_task.md)",
)


@dataclass(frozen=True)
class Description:
    """One line of `list tasks`.

    Attributes:
        name: of the task.
        metric: its main metric.
        summary: what it asks.
    """

    name: str
    metric: str
    summary: str


def shown() -> list[str]:
    """Names of the tasks that `list tasks` shows: of world 2's, only the test split."""
    return [name for name in available() if not (name.startswith("world2") and name.endswith(HIDDEN))]


def refuse_unknown(name: str, sets: Sequence[str] = ()) -> None:
    """Raise an error for an unknown name; imports nothing.

    Args:
        name: of a task, or of a file.
        sets: names of sets of tasks, where one may be given.

    Raises:
        UnknownNameError: no such task; the message suggests the nearest name.
    """
    if not is_own_file(name) and name not in REGISTRY:
        raise UnknownNameError("task", name, [*available(), *sets], REGISTRY.hint, [*shown(), *sets])


def available() -> list[str]:
    """Names of all tasks: built-in, registered, and installed as entry points."""
    return REGISTRY.names()


def given(name: str) -> Task:
    """Return the task that a user names: one of `available`, or a file of images and questions (`own_files`).

    Raises:
        UnknownNameError: no such task.
        MissingFileError, InvalidValueError: see `get` and `own_files.open_file`.
    """
    return open_file(name) if is_own_file(name) else get(name)


def get(name: str) -> Task:
    """Return the task of that name; a file's name stands for the task that `given` has opened.

    Raises:
        UnknownNameError: no such task.
        InvalidValueError: the object registered under the name is not a task, or has another name.
    """
    refuse_unknown(name)
    if is_own_file(name):
        return known(name)
    found = REGISTRY.load(name)
    if isinstance(found, tuple):
        found = next(task for task in found if task.name == name)
    if isinstance(found, type) and issubclass(found, Task):
        try:
            found = found()
        except TypeError as error:  # a field without a default, or a method that is not implemented
            raise InvalidValueError(f"task '{name}': {found.__name__}() failed: {error}") from error
    if not isinstance(found, Task) or found.name != name:
        raise InvalidValueError(
            f"the object registered as task '{name}' is {found!r:.80}: it must be a Task of that name"
        )
    return found


def register(task: TaskType) -> TaskType:
    """Register a custom task under its `name`, as a class decorator or by a call with a task.

    A class must be constructible without arguments: its fields `name` and `source` need defaults.

    Raises:
        InvalidValueError: the name is empty or taken by another task.
    """
    REGISTRY.add(getattr(task, "name", ""), task)
    return task


def describe() -> list[Description]:
    """Name, main metric and description of every task; of world 2's tasks, only the test split."""
    lines = []
    for name in shown():
        task = get(name)
        summary = task.summary
        if task.source.kind == "embedded":
            summary = f"drawn scenes, form of {task.family}: {task.embedded_summary}"
        lines.append(Description(name, task.main_metric, summary))
    return lines

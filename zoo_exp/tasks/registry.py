"""Names of tasks and where they live; a task's file is imported when it is asked for."""

from dataclasses import dataclass, replace
from importlib import import_module

from zoo_exp.errors import UnknownNameError
from zoo_exp.tasks.base import DataSource, Task

_MODULES = {
    "gqa": "gqa",
    "vqav2_val": "vqav2",
    "vqav2_testdev": "vqav2",
    "textvqa_val": "textvqa",
    "textvqa_val_ocr": "textvqa",
    "scienceqa_img": "scienceqa",
    "pope": "pope",
    "pope_adv": "pope",
    "pope_pop": "pope",
    "pope_random": "pope",
    "mme": "mme",
    "mmbench_en_dev_static": "mmbench",
    "mmbench_en_test": "mmbench",
    "mmmu_val": "mmmu",
    "mmmu_val_serial": "mmmu",
    "seedbench": "seedbench",
    "seedbench_image": "seedbench",
}
# The nine benchmarks inside the package are the official classes on other rows.
_EMBEDDED = {
    "embedded_gqa": "gqa",
    "embedded_vqav2": "vqav2_val",
    "embedded_textvqa": "textvqa_val",
    "embedded_scienceqa": "scienceqa_img",
    "embedded_pope": "pope",
    "embedded_mme": "mme",
    "embedded_mmbench": "mmbench_en_dev_static",
    "embedded_mmmu": "mmmu_val",
    "embedded_seedbench": "seedbench_image",
}
# World 2 asks the same nine families about images of three kinds, each in three splits.
_VIEWS = ("world2", "world2_tiles", "world2_sizes")
_SPLITS = {"": "test", "_validation": "validation", "_confirm": "confirm"}
_WORLD2 = {
    f"{view}_{name.removeprefix('embedded_')}{ending}": (official, view, split)
    for view in _VIEWS
    for name, official in _EMBEDDED.items()
    for ending, split in _SPLITS.items()
}


@dataclass(frozen=True)
class Description:
    """One line of `list tasks`."""

    name: str
    metric: str
    summary: str


def available() -> list[str]:
    """Names of all tasks."""
    return [*_EMBEDDED, *(name for name in _WORLD2 if _WORLD2[name][2] == "test"), *_MODULES]


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownNameError: no such task.
    """
    if name in _EMBEDDED:
        base = get(_EMBEDDED[name])
        return replace(base, name=name, source=DataSource("", "test", base.family, kind="embedded"))
    if name in _WORLD2:
        official, view, split = _WORLD2[name]
        base = get(official)
        return replace(base, name=name, source=DataSource(view, split, base.family, kind="embedded"))
    if name not in _MODULES:
        raise UnknownNameError("task", name, available(), "(python -m zoo_exp list tasks)")
    tasks: tuple[Task, ...] = import_module(f"zoo_exp.tasks.{_MODULES[name]}").TASKS
    return next(task for task in tasks if task.name == name)


def describe() -> list[Description]:
    """Name, main metric and one line of every task."""
    lines = []
    for name in available():
        task = get(name)
        inside = "inside the package: " if task.source.kind == "embedded" else ""
        lines.append(Description(name, task.main_metric, inside + task.summary))
    return lines

"""The nine benchmarks of world 2: the official classes on generated rows, in three views and splits."""

from dataclasses import replace

from zoo_exp.tasks import gqa, mmbench, mme, mmmu, pope, scienceqa, seedbench, textvqa, vqav2
from zoo_exp.tasks.base import DataSource, Task

VIEWS = ("world2", "world2_tiles", "world2_sizes")
SPLITS = {"": "test", "_validation": "validation", "_confirm": "confirm"}
FAMILIES = (gqa, vqav2, textvqa, scienceqa, pope, mme, mmbench, mmmu, seedbench)


def _tasks() -> tuple[Task, ...]:
    """Create each embedded task for every view and split."""
    made = []
    for view in VIEWS:
        for ending, split in SPLITS.items():
            for module in FAMILIES:
                (base,) = (task for task in module.TASKS if task.source.kind == "embedded")
                name = f"{view}_{base.name.removeprefix('embedded_')}{ending}"
                source = DataSource(view, split, base.source.config, kind="embedded")
                made.append(replace(base, name=name, source=source))
    return tuple(made)


TASKS = _tasks()

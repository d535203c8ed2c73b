"""What a run folder says about itself, and the refusal to go on in it with another configuration."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Experiment
from zoo_exp.config.identity import data_source
from zoo_exp.errors import InvalidValueError
from zoo_exp.runs.merge import replaced

FILE = "experiment.json"
_FREE = (
    *("question", "overrides", "out", "limit", "logger", "trainer", "cache"),
    *("model.name", "model.batch_size", "model.device_map", "model.budgets", "model.n_visual"),
    *("model.default_tasks", "model.default_limit", "data.workers"),
)
"""What may change under a half-done run: none of it changes a record."""


def write(folder: Path, experiment: Experiment, provenance: Mapping[str, Any]) -> None:
    """Write the resolved configuration, versions, data revisions and device.

    Raises:
        InvalidValueError: the folder holds another configuration's records.
    """
    check(folder, experiment)
    with replaced(folder / "config.yaml") as file:
        file.write(experiment.to_yaml().encode())
    content = {
        "experiment": experiment.as_dict(),
        "provenance": dict(provenance),
        "data": {task: data_source(task) for task in experiment.tasks},
        "device": device(),
        "attention": experiment.model.attention,
        "slurm": {name: value for name, value in sorted(os.environ.items()) if name in _SLURM},
    }
    with replaced(folder / FILE) as file:
        file.write((json.dumps(content, indent=1, default=str) + "\n").encode())


def check(folder: Path, experiment: Experiment) -> None:
    """Refuse to go on in a folder whose records another configuration made.

    Raises:
        InvalidValueError: it is so; shows what is different.
    """
    try:
        old = json.loads((folder / FILE).read_text(encoding="utf-8"))["experiment"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    refuse_changes(f"{folder} was begun with another configuration", old, experiment)


def refuse_changes(what: str, old: Mapping[str, Any], experiment: Experiment) -> None:
    """Refuse an experiment that differs from what was written down.

    Raises:
        InvalidValueError: it differs in something that changes records; every difference is named.
    """
    found = list(differences(old, experiment.as_dict()))
    if found:
        if old.get("limit") != experiment.limit:
            found.append(f"limit: {old.get('limit')} -> {experiment.limit}")
        shown = "\n".join(f"  {line}" for line in found[:20])
        raise InvalidValueError(
            f"{what}:\n{shown}\nUndo the change to go on, or start anew with another folder: out=DIR"
        )


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """`key: old -> new` for every value that changes records."""
    if key in _FREE or key.endswith("].arm"):  # the label of an arm
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(set(old) & set(new)):  # another version of the package may know more keys
            yield from differences(old[name], new[name], f"{key}.{name}".lstrip("."))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for number, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{key}[{number}]")
    elif _is_list(old) and _is_list(new):
        before, after = [_name(item) for item in old], [_name(item) for item in new]
        yield from (f"{key}: {name} is gone" for name in before if name not in after)
        yield from (f"{key}: {name} is new" for name in after if name not in before)
    elif json.dumps(old, default=str) != json.dumps(new, default=str):
        yield f"{key}: {_short(old)} -> {_short(new)}"


def device() -> str:
    """The accelerator, or the processor's architecture."""
    import platform

    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})"


_SLURM = ("SLURM_CLUSTER_NAME", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_RESTART_COUNT")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _name(item: Any) -> str:
    return str(item["arm"]) if isinstance(item, Mapping) and "arm" in item else _short(item)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."

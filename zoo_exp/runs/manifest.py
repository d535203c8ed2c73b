"""The manifest of a run folder (`experiment.json`), and the check that a run is resumed with the same settings."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.config.experiment import Experiment
from zoo_exp.config.identity import FREE, data_source
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import write_text
from zoo_exp.runs import folder
from zoo_exp.runs.records import arm_row

_SLURM = ("SLURM_CLUSTER_NAME", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_RESTART_COUNT")


def write(run: Path, experiment: Experiment, provenance: Mapping[str, Any]) -> None:
    """Write the resolved configuration, versions, data revisions and device.

    Raises:
        InvalidValueError: the folder contains records of another configuration.
    """
    check(run, experiment)
    write_text(folder.config(run), experiment.to_yaml())
    content = {
        "experiment": experiment.as_dict(),
        "provenance": dict(provenance),
        "data": {task: data_source(task) for task in experiment.tasks},
        "device": device(),
        "attention": experiment.model.attention,
        "slurm": {name: value for name, value in sorted(os.environ.items()) if name in _SLURM},
    }
    write_text(folder.experiment(run), json.dumps(content, indent=1, default=str) + "\n")


def read(run: Path) -> dict[str, Any]:
    """Read the manifest of a run folder; arms have the keys of `Arm.as_dict` for every version of the file.

    Raises:
        MissingFileError: it is missing or damaged.
    """
    path = folder.experiment(run)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(
            f"{run} is not a run folder: cannot read {path.name} ({error.strerror}); give runs/NAME/ID"
        ) from error
    except (ValueError, RecursionError) as error:
        raise MissingFileError(_damaged(path, "not JSON")) from error
    experiment = content.get("experiment") if isinstance(content, dict) else None
    kinds = {"name": str, "model": dict, "tasks": list, "arms": list}
    if not isinstance(experiment, dict):
        raise MissingFileError(_damaged(path, "it has no experiment"))
    for name, kind in kinds.items():
        if not isinstance(experiment.get(name), kind):
            raise MissingFileError(_damaged(path, f"it lacks {name}"))
    arms = experiment["arms"]
    texts = [*experiment["tasks"], *(arm.get("arm") if isinstance(arm, dict) else None for arm in arms)]
    if not all(isinstance(text, str) for text in texts):
        raise MissingFileError(_damaged(path, "a task or an arm has no name"))
    for name in ("provenance", "data"):
        if not isinstance(content.get(name), dict):
            content[name] = {}
    content["experiment"] = experiment | {"arms": [arm_row(arm) for arm in arms]}
    return dict(content)


def arms(run: Path) -> list[dict[str, Any]]:
    """The arms of a run from its manifest; empty if it cannot be read."""
    try:
        return list(read(run)["experiment"]["arms"])
    except MissingFileError:
        return []


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged ({why}): rerun the experiment to rewrite it"


def check(run: Path, experiment: Experiment) -> None:
    """Check that a folder was started with the same configuration.

    Raises:
        InvalidValueError: the configuration differs; the message lists the differences.
    """
    try:
        old = json.loads(folder.experiment(run).read_text(encoding="utf-8"))["experiment"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(old, dict):
        refuse_changes(f"{run} was started with another configuration", old, experiment)


def refuse_changes(what: str, old: Mapping[str, Any], experiment: Experiment) -> None:
    """Refuse an experiment that differs from a recorded one.

    Raises:
        InvalidValueError: settings that affect records differ; the message lists the differences.
    """
    found = list(differences(old, experiment.as_dict()))
    if found:
        if old.get("limit") != experiment.limit:
            found.append(f"limit: {old.get('limit')} -> {experiment.limit}")
        shown = "\n".join(f"  {line}" for line in found[:20])
        raise InvalidValueError(
            f"{what}:\n{shown}\nUndo the change to resume, or start a new run in another folder: out=DIR"
        )


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """`key: old -> new` for each changed value that affects records."""
    if key in FREE or key.endswith(("].arm", "].row")):  # labels
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(set(old) & set(new)):  # another version may have more keys
            yield from differences(old[name], new[name], f"{key}.{name}".lstrip("."))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for number, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{key}[{number}]")
    elif _is_list(old) and _is_list(new):
        before, after = [_name(item) for item in old], [_name(item) for item in new]
        yield from (f"{key}: {name} was removed" for name in before if name not in after)
        yield from (f"{key}: {name} was added" for name in after if name not in before)
    elif json.dumps(old, default=str) != json.dumps(new, default=str):
        yield f"{key}: {_short(old)} -> {_short(new)}"


def device() -> str:
    """Name of the GPU, or the architecture of the CPU."""
    import platform

    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _name(item: Any) -> str:
    return str(item["arm"]) if isinstance(item, Mapping) and "arm" in item else _short(item)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."

"""What an experiment reads, looked at before anything slow: its folders, and whether the hub answers."""

import os
from collections.abc import Callable
from pathlib import Path

from zoo_exp import tasks
from zoo_exp.config.experiment import Experiment
from zoo_exp.config.schema import ModelConfig
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.models.architectures import ARCHITECTURES
from zoo_exp.models.weight_files import check_weight_files
from zoo_exp.tasks import data, hub


def check(experiment: Experiment, tell: Callable[[str], object] = print) -> None:
    """Refuse folders that are missing or hold no checkpoint; without a network, tell the hub's client to use its cache.

    Call it before `transformers` or `datasets` is imported (see `hub.go_offline_if_unreachable`).

    Args:
        experiment: from `zoo_exp.config.compose`.
        tell: gets one sentence if the hub is needed and cannot be reached.

    Raises:
        MissingFileError: a folder that is not there, or lacks what it should have; says what to type.
        InvalidValueError: a file in the place of a folder, or pickled weights.
    """
    asks_hub = _check_model(experiment.model)
    asks_hub |= _check_data(experiment)
    problem = hub.go_offline_if_unreachable() if asks_hub else None
    if problem:
        tell(problem)


def _check_model(model: ModelConfig) -> bool:
    """Look at a model's folder; whether the hub has the model instead."""
    if model.path == "embedded":
        return False
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise MissingFileError(
                f"model.path={model.path}: {folder} has no config.json; give the folder of a checkpoint: model.path=DIR"
            )
        if model.weights != "random":
            check_weight_files(str(folder), model.path)
        return False
    if folder.exists():
        raise InvalidValueError(
            f"model.path={model.path} is a file; give the folder that it lies in: model.path=DIR"
        )
    # A hub id is `name` or `owner/name`.
    if model.path.startswith((".", "~", os.sep)) or model.path.count("/") > 1:
        raise MissingFileError(
            f"model.path={model.path}: there is no such folder; give one with a checkpoint, model.path=DIR, or leave "
            f"it out for what model={model.name} takes from the hub"
        )
    return model.weights != "random" or model.path not in ARCHITECTURES


def _check_data(experiment: Experiment) -> bool:
    """Look at the folders of all tasks; whether the hub has data of theirs instead."""
    wanted = [task for task in map(tasks.get, experiment.tasks) if task.source.kind != "embedded"]
    if not wanted or experiment.data.root is None:
        return bool(wanted)
    root = Path(experiment.data.root).expanduser()
    if not root.is_dir():
        raise MissingFileError(
            f"data.root={experiment.data.root}: there is no such folder; give one with a folder per benchmark: "
            "data.root=DIR"
        )
    for task in wanted:
        data.folder_of(task, root)
    return False

"""The sources of an experiment: check model and data before anything slow starts, and load the configured model."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exp import tasks
from zoo_exp.config.experiment import Experiment
from zoo_exp.config.schema import ModelConfig
from zoo_exp.console import is_first_process
from zoo_exp.embedded.shipped import is_shipped
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import log
from zoo_exp.models.families import known_architectures
from zoo_exp.models.weight_files import check_processor_files, check_snapshot, check_weight_files
from zoo_exp.tasks import data, hub
from zoo_exp.tasks.own_files import OwnFile
from zoo_exp.wording import counted

if TYPE_CHECKING:
    import torch

    from zoo_exp.models.loading import LoadedModel


def check(experiment: Experiment, tell: Callable[[str], object] = print) -> None:
    """Refuse missing folders and folders without a checkpoint; without a network, switch the hub client to its cache.

    Call this before `transformers` or `datasets` is imported (see `hub.go_offline_if_unreachable`).

    Args:
        experiment: from `zoo_exp.config.compose`.
        tell: receives a sentence for each arm that is left out, and one if the hub is needed but cannot be reached.

    Raises:
        MissingFileError: a missing folder, or a folder that lacks required files.
        InvalidValueError: a file where a folder is expected, or pickled weights.
    """
    for sentence in experiment.left_out:
        tell(sentence)
    asks_hub = _check_model(experiment.model)
    asks_hub |= _check_data(experiment)
    problem = hub.go_offline_if_unreachable() if asks_hub else None
    if problem:
        tell(problem)


def load_configured(
    model: ModelConfig, device: "str | torch.device | None" = None, decoder: bool = True
) -> "LoadedModel":
    """Load a model according to its configuration; on a terminal, with bars for downloads and weights.

    Args:
        model: from `configs/model/`.
        device: target device; ignored where the configuration has a `device_map`.
        decoder: see `load_model`.

    Raises:
        ZooExpError: see `load_model`; also a processor that cannot make a prompt.
    """
    from zoo_exp.models.loading import load_model
    from zoo_exp.models.processor_gaps import check_usable

    slow = half_on_cpu(model) if str(device) == "cpu" else None
    if slow:
        log.warning(slow)
    folder = Path(model.path).expanduser()
    loaded = load_model(
        folder if folder.is_dir() else model.path,
        revision=model.revision,
        dtype=model.dtype,
        attention=model.attention,
        device=None if model.device_map else device,
        device_map=model.device_map,
        weights=model.weights,
        layers=model.layers,
        decoder=decoder,
        trust_remote_code=model.trust_remote_code,
        clip=model.clip,
        min_pixels=model.min_pixels,
        max_pixels=model.max_pixels,
        protocol=model.protocol,
        progress=sys.stderr is not None and sys.stderr.isatty() and is_first_process(),
    )
    if model.weights == "pretrained":
        check_usable(loaded.processor, loaded.name)
    return loaded


def half_on_cpu(model: ModelConfig) -> str | None:
    """What to type where a model would run in float16 on a CPU; None where its dtype is another one."""
    dtype = model.dtype
    if dtype == "auto":  # as saved
        try:
            raw = json.loads((Path(model.path).expanduser() / "config.json").read_text(encoding="utf-8"))
            text = raw.get("text_config") or {}
            dtype = raw.get("dtype") or raw.get("torch_dtype") or text.get("torch_dtype")
        except (OSError, ValueError, AttributeError, RecursionError):
            return None  # loading the model says what is wrong with the file
    if dtype != "float16":
        return None
    return "float16 on a CPU is unusably slow: type model.dtype=bfloat16, or model.dtype=float32"


def describe_model(model: ModelConfig) -> str:
    """What is about to be loaded: its name and the size of its files, or where they come from."""
    if is_shipped(model.path) or model.weights == "random":
        return model.name
    folder = Path(model.path).expanduser()
    if not folder.is_dir():
        return f"{model.name} ({model.path}, from the hub or its cache)"
    files = list(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    return f"{model.name} ({size / 2**30:.1f} GiB in {counted(len(files), 'file')})"


def load_processor(model: ModelConfig) -> Any:
    """The processor of a model without its weights.

    Raises:
        ZooExpError: no such checkpoint, or a damaged one.
    """
    from zoo_exp.embedded.shipped import shipped_folder
    from zoo_exp.models.config_file import load_config
    from zoo_exp.models.llava_protocol import use_protocol
    from zoo_exp.models.loading import processor_of
    from zoo_exp.models.pixels import bound_pixels

    folder = Path(model.path).expanduser()
    path = str(shipped_folder(model.path)) if is_shipped(model.path) else str(folder)
    path = path if Path(path).is_dir() else model.path
    hub = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = load_config(path, model.name, model.weights, hub)
    processor = processor_of(path, model.name, config, hub, needed=True)
    bound_pixels(processor, model.name, model.min_pixels, model.max_pixels)
    use_protocol(processor, config, model.name, model.protocol)
    return processor


def _check_model(model: ModelConfig) -> bool:
    """Check a model folder; returns whether the model comes from the hub instead."""
    if is_shipped(model.path):
        return False
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        check_snapshot(str(folder), model.path)
        if model.weights != "random":
            check_weight_files(str(folder), model.path)
            check_processor_files(str(folder), model.path)
        return False
    if folder.exists():
        raise InvalidValueError(
            f"model.path={model.path} is a file. Give the folder that contains it: model.path=DIR"
        )
    # A hub id is `name` or `owner/name`.
    if model.path.startswith((".", "~", os.sep)) or model.path.count("/") > 1:
        raise MissingFileError(
            f"model.path={model.path}: no such folder. Give a folder with a checkpoint, model.path=DIR, or leave it "
            f"out to load the checkpoint of model={model.name} from the hub"
        )
    return model.weights != "random" or model.path not in known_architectures()


def _check_data(experiment: Experiment) -> bool:
    """Check the data folders of all tasks; returns whether some data come from the hub instead."""
    for task in map(tasks.get, experiment.tasks):
        if isinstance(task, OwnFile):
            data.check_images(task, experiment.data.root, experiment.limit)
    wanted = [task for task in map(tasks.get, experiment.tasks) if task.source.kind == "hub"]
    if not wanted or experiment.data.root is None:
        return bool(wanted)
    root = Path(experiment.data.root).expanduser()
    if not root.is_dir():
        raise MissingFileError(
            f"data.root={experiment.data.root}: no such folder. Give a folder with one subfolder per benchmark: "
            "data.root=DIR"
        )
    for task in wanted:
        data.folder_of(task, root)
    return False

"""Hashes of everything that changes records, and of nothing else.

A record belongs to a cell (model, weights, dtype, attention backend, task, seed) and to an arm (selector,
options, budget, repetition). `out`, `limit`, the logger, the Trainer, the batch size, labels and the order
of samples are not part of the hash, so a run can be resumed with another limit or on other hardware; a new
option value creates a new arm and leaves the others unchanged.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo_exp.config.schema import ModelConfig
from zoo_exp.core.budget import Budget

LENGTH = 12
"""Hexadecimal digits of an id: 48 bits; among a million ids a collision has a probability below 0.2 %."""
LARGEST_HASHED_FILE = 64 * 2**20
"""Bytes; larger files are identified by their size, since hashing a 7B checkpoint takes a minute."""
MODEL_FIELDS = ("family", "path", "revision", "dtype", "attention", "weights", "layers")
"""Fields of the model that change its records."""
LATER_FIELDS = ("clip", "prompts", "trust_remote_code", "min_pixels", "max_pixels")
"""The same; they came later, and enter a hash only where they are set, so that earlier ids stay."""
FREE = (
    *("question", "overrides", "out", "limit", "logger", "trainer", "cache", "data.workers"),
    *(
        f"model.{item.name}"
        for item in dataclasses.fields(ModelConfig)
        if item.name not in (*MODEL_FIELDS, *LATER_FIELDS)
    ),
)
"""Keys of an experiment that change no record: a run may be resumed with other values of them."""


def digest(content: Any) -> str:
    """A hash that is the same in every process and on every platform.

    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def cell_id(model: ModelConfig, task: str, seed: int) -> str:
    """The identity of a cell: model, weights, dtype, task, data source and seed."""
    weights = weights_fingerprint(model)
    fields = _fields(model)
    return digest({"model": fields, "files": weights, "task": task, "data": data_source(task), "seed": seed})


def _fields(model: ModelConfig) -> dict[str, Any]:
    """What of a model's configuration decides its answers."""
    later = {name: value for name in LATER_FIELDS if (value := getattr(model, name))}
    return {name: getattr(model, name) for name in MODEL_FIELDS} | later


def weights_id(model: ModelConfig) -> str:
    """The identity of what a loaded model computes: its fields and files, including overwritten large files."""
    fields = _fields(model)
    folder = _weights_folder(model)
    files = [
        # A large file is identified by its size; its modification time tells whether it was rewritten.
        (name, size, content or (folder / name).stat().st_mtime_ns)
        for name, size, content in weights_fingerprint(model)
    ]
    return digest({"model": fields, "files": files})


def settings(selector: Any) -> dict[str, Any]:
    """All options of a selector, a dataclass, as they enter an arm's hash.

    Options that it lists in `later_options` were added after records had been made: they enter only where they differ
    from their default, which does what the selector did before.
    """
    later = getattr(selector, "later_options", ())
    defaults = {item.name: item.default for item in dataclasses.fields(selector)}
    options = dataclasses.asdict(selector)
    return {name: value for name, value in options.items() if name not in later or value != defaults[name]}


def arm_id(selector: str, options: Mapping[str, Any], budget: Budget | None, seed_index: int) -> str:
    """The identity of an arm within any cell; `options` are all of the selector's, defaults included."""
    kept = None if budget is None else dataclasses.asdict(budget)
    return digest({"selector": selector, "options": dict(options), "budget": kept, "seed_index": seed_index})


def weights_fingerprint(model: ModelConfig) -> list[tuple[str, int, str]]:
    """Name, size and hash of each file of a local checkpoint; empty for a hub id, which its revision identifies.

    The files of an embedded model are hashed, so that records of retrained weights are kept apart.
    """
    if model.weights == "random":
        return []
    folder = _weights_folder(model)
    if not folder.is_dir():
        return []
    kinds = (".safetensors", ".json", ".txt", ".model")
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    return [(path.name, path.stat().st_size, _file_hash(path)) for path in files]


def _weights_folder(model: ModelConfig) -> Path:
    from zoo_exp.embedded.shipped import FOLDERS, ROOM

    return ROOM / FOLDERS[model.path] if model.path in FOLDERS else Path(model.path).expanduser()


def data_source(task: str) -> Any:
    """The data set, configuration, split and revision that a task reads."""
    from zoo_exp import tasks

    source = getattr(tasks.get(task), "source", None)
    return dataclasses.asdict(source) if dataclasses.is_dataclass(source) else None  # type: ignore[arg-type]


def _file_hash(path: Path) -> str:
    stat = path.stat()
    return "" if stat.st_size > LARGEST_HASHED_FILE else _content_hash(path, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _content_hash(path: Path, modified_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """Convert values that JSON does not support, such as a dtype among a selector's options."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)

"""Hashes of everything that changes records, and of nothing else.

A record belongs to a cell (model, weights, dtype, attention backend, task, seed) and to an arm (selector, options,
budget, repetition; the version of the algorithm). Classes of selectors and tasks outside this package enter with their
source, and a user's own task file with its content. `out`, `limit`, the logger, the Trainer, the batch size, labels and
the order of samples are not part of the hash, so a run can be resumed with another limit or on other hardware; a new
option value creates a new arm and leaves the others unchanged.
"""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

from zoo_exp.config.schema import EngineConfig, ModelConfig
from zoo_exp.core.budget import Budget
from zoo_exp.registry import is_ours

LENGTH = 12
"""Hexadecimal digits of an id: 48 bits; among a million ids a collision has a probability below 0.2 %."""
LARGEST_HASHED_FILE = 64 * 2**20
"""Bytes; larger files are identified by their size, since hashing a 7B checkpoint takes a minute."""
MODEL_FIELDS = ("family", "path", "revision", "dtype", "attention", "weights", "layers")
"""Fields of the model that change its records."""
LATER_FIELDS = ("clip", "prompts", "trust_remote_code", "min_pixels", "max_pixels", "protocol")
"""The same; they came later, and enter a hash only where they are set, so that earlier ids stay."""
_EARLIER = {"protocol": "hf"}
"""Later field -> the value that stands for what was done before it came; others are empty."""
FREE = (
    *("question", "overrides", "out", "limit", "fresh", "logger", "trainer", "cache", "data.workers"),
    *(
        f"model.{item.name}"
        for item in dataclasses.fields(ModelConfig)
        if item.name not in (*MODEL_FIELDS, *LATER_FIELDS)
    ),
    *(
        f"engine.{name}"
        for name in ("via", "tensor_parallel", "max_model_len", "gpu_memory", "url", "arms_per_call")
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


def cell_id(model: ModelConfig, task: str, seed: int, engine: EngineConfig | None = None) -> str:
    """The identity of a cell: model, weights, dtype, task, data source, seed, and an engine other than `hf`."""
    weights = weights_fingerprint(model)
    content = {
        "model": _fields(model),
        "files": weights,
        "task": task,
        "data": data_source(task),
        "seed": seed,
    }
    source = task_source(task)
    other = {} if engine is None or engine.name == "hf" else {"engine": [engine.name, engine.version]}
    return digest(content | ({"source": source} if source else {}) | other)


def _fields(model: ModelConfig) -> dict[str, Any]:
    """What of a model's configuration decides its answers."""
    later = {
        name: value
        for name in LATER_FIELDS
        if (value := getattr(model, name)) and value != _EARLIER.get(name)
    }
    return {name: getattr(model, name) for name in MODEL_FIELDS} | later


def weights_id(model: ModelConfig) -> str:
    """The identity of what a loaded model computes: its fields and files, including overwritten large files."""
    fields = _fields(model)
    files = [
        # A large file is identified by its size; its modification time tells whether it was rewritten.
        (name, size, content or (folder / name.removeprefix(prefix)).stat().st_mtime_ns)
        for prefix, folder in _folders(model).items()
        for name, size, content in _fingerprint(folder, prefix)
    ]
    return digest({"model": fields, "files": files})


def settings(selector: Any) -> dict[str, Any]:
    """All options of a selector, a dataclass, and what identifies its code, as they enter an arm's hash.

    Options that it lists in `later_options` were added after records had been made: they enter only where they differ
    from their default, which does what the selector did before.
    """
    later = getattr(selector, "later_options", ())
    defaults = {item.name: item.default for item in dataclasses.fields(selector)}
    options = dataclasses.asdict(selector)
    kept = {name: value for name, value in options.items() if name not in later or value != defaults[name]}
    # A number of the class, which grows when it selects other tokens than before.
    algorithm = getattr(selector, "algorithm", 1)
    return kept if algorithm == 1 else kept | {"algorithm of the class": algorithm}


def arm_id(
    selector: str, options: Mapping[str, Any], budget: Budget | None, seed_index: int, source: str = ""
) -> str:
    """The identity of an arm within any cell.

    Args:
        selector: its name.
        options: all of the selector's, defaults included.
        budget: of the arm.
        seed_index: the repetition.
        source: `source_id` of the selector's class; empty for the classes of this package.
    """
    kept = None if budget is None else dataclasses.asdict(budget)
    content = {"selector": selector, "options": dict(options), "budget": kept, "seed_index": seed_index}
    return digest(content | ({"source": source} if source else {}))


def source_id(kind: type) -> str:
    """A hash of the modules that define a class and its bases, as far as they are outside this package; else empty.

    A method that is being written changes from run to run while its name stays. Where a class has no file, as in a
    notebook, its own source counts, or its compiled methods.
    """
    outside = [
        one
        for one in kind.__mro__
        if not is_ours(one) and one.__module__.partition(".")[0] not in sys.stdlib_module_names
    ]
    return digest(sorted({(one.__module__, _source(one)) for one in outside})) if outside else ""


def _source(kind: type) -> str:
    """The text that defines a class: its module's file, its own source, or its compiled methods."""
    name = getattr(sys.modules.get(kind.__module__), "__file__", None)
    try:
        if name and kind.__module__ != "__main__":
            return Path(name).read_text(encoding="utf-8")
        return inspect.getsource(kind)
    except (OSError, TypeError, UnicodeDecodeError):
        return repr(sorted((key, _compiled(value)) for key, value in vars(kind).items()))


def _compiled(value: Any) -> str:
    """What a method does, or the text of another attribute, without addresses in memory."""
    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
    code = getattr(value, "__code__", None)
    if code is None:
        return repr(value) if isinstance(value, (str, int, float, bool, tuple, frozenset)) else ""
    inner = [_compiled_code(one) if inspect.iscode(one) else repr(one) for one in code.co_consts]
    return repr((code.co_code, code.co_names, inner))


def _compiled_code(code: CodeType) -> str:
    return repr((code.co_code, code.co_names, [c for c in code.co_consts if not inspect.iscode(c)]))


def weights_fingerprint(model: ModelConfig) -> list[tuple[str, int, str]]:
    """Name, size and hash of each file of a local checkpoint; empty for a hub id, which its revision identifies.

    The files of a local `clip` belong to them. Those of an embedded model are hashed, so that records of retrained
    weights are kept apart.
    """
    return [row for prefix, folder in _folders(model).items() for row in _fingerprint(folder, prefix)]


def _folders(model: ModelConfig) -> dict[str, Path]:
    """The local folders with weights that a model's answers depend on, by the prefix of their files' names."""
    own = {} if model.weights == "random" else {"": _weights_folder(model)}
    clip = {"clip/": Path(model.clip).expanduser()} if model.clip else {}
    return {prefix: folder for prefix, folder in (own | clip).items() if folder.is_dir()}


def _fingerprint(folder: Path, prefix: str) -> list[tuple[str, int, str]]:
    kinds = (".safetensors", ".json", ".txt", ".model")
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    return [(prefix + path.name, path.stat().st_size, _file_hash(path)) for path in files]


def _weights_folder(model: ModelConfig) -> Path:
    from zoo_exp.embedded.shipped import FOLDERS, ROOM

    return ROOM / FOLDERS[model.path] if model.path in FOLDERS else Path(model.path).expanduser()


def data_source(task: str) -> Any:
    """The data set, configuration, split and revision that a task reads."""
    from zoo_exp import tasks

    source = getattr(tasks.get(task), "source", None)
    return dataclasses.asdict(source) if dataclasses.is_dataclass(source) else None  # type: ignore[arg-type]


def task_source(task: str) -> str:
    """`source_id` of the task's class: prompt and scoring of a task outside this package; empty for the others."""
    from zoo_exp import tasks

    return source_id(type(tasks.get(task)))


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

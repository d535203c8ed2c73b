"""What sensitivities need once per projector, kept on disk between processes.

The kernel of the closed form (`core.closed_form`, `core.normed`) takes seconds on a CPU, and the calibration of its
diagonal a vision pass. Both depend on the weights only, so a file named by a hash of them replaces the computation.
Small projectors, for which reading takes longer than computing, are not kept.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import zoo_exp
from zoo_exp.core.memo import keep_with
from zoo_exp.errors import ZooExpError
from zoo_exp.files import log
from zoo_exp.models.tensor_store import TensorStore

LIMIT_GB = 2.0
"""Size of all entries; the least recently used ones are removed first."""
SMALLEST = 2**33
"""Multiply-adds of a kernel from which it is kept: about half a second on one CPU core."""
KEYS = ("closed_form", "normed")
"""Values of `core.memo` that are kept; the others take milliseconds."""
SAMPLE = 256
"""Values of each parameter of the vision encoder that identify it."""
P = TypeVar("P")


def folder() -> Path | None:
    """`zoo_exp/projectors` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache); None without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "zoo_exp" / "projectors"


def kept_on_disk(mlp: P) -> P:
    """Let the kernels of a projector come from the disk where they are; returns the projector."""
    return keep_with(mlp, _kernels)


def kept_number(mlp: object, name: str, compute: Callable[[], float]) -> float:
    """A number that depends on a projector and on what `name` says; computed if no file has it."""
    store = _store(mlp)
    if store is None:
        return compute()
    key = f"{name} {identity(mlp)}"
    entry = store.get(key)
    if entry is not None and isinstance(entry[1].get("value"), float):
        return float(entry[1]["value"])
    value = compute()
    _put(store, key, {}, {"value": value})
    return value


def encoder_sample(adapter: Any) -> str:
    """A hash of some values of every parameter outside the language model."""
    inside = {id(parameter) for parameter in adapter.llm.parameters()}
    state = hashlib.sha256()
    for name, parameter in adapter.vlm.named_parameters():
        if id(parameter) in inside:
            continue
        state.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        if not parameter.is_meta and parameter.numel():
            flat = parameter.detach().reshape(-1)
            state.update(_bytes(flat[:: -(-len(flat) // SAMPLE)]))
    return state.hexdigest()


def identity(mlp: object) -> str:
    """A hash of a projector's weights and of what its kernel is computed with: device, threads, versions."""
    weight = _weights(mlp)[0]
    device = (
        torch.cuda.get_device_name(weight.device)
        if weight.is_cuda
        else torch.backends.cpu.get_cpu_capability()
    )
    state = hashlib.sha256(
        f"{device} {torch.get_num_threads()} {torch.__version__} {zoo_exp.__version__}".encode()
    )
    for name, value in _parts(mlp):
        if isinstance(value, Tensor):
            state.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            state.update(_bytes(value))
        elif isinstance(value, str | float | bool | None):
            state.update(f"{name} {value!r}".encode())
    return state.hexdigest()


def _kernels(mlp: object, key: Hashable, compute: Callable[[], Any]) -> Any:
    """The value of `core.memo` for one of the keys, from the disk or computed."""
    store = _store(mlp) if key in KEYS else None
    if store is None:
        return compute()
    name = f"{key} {identity(mlp)}"
    entry = store.get(name)
    device = _weights(mlp)[0].device
    if entry is not None:
        # At another alignment, products of a mapped tensor may differ in the last bit.
        tensors = {
            name: (t if t.data_ptr() % 64 == 0 else t.clone()).to(device) for name, t in entry[0].items()
        }
        with suppress(KeyError, TypeError):
            return _arranged(entry[1]["layout"], tensors)
    value = compute()
    found: dict[str, Tensor] = {}
    layout = _flattened(value, found)
    _put(store, name, found, {"layout": layout})
    return value


def _store(mlp: object) -> TensorStore | None:
    """The store, if the projector is large enough for it and there is a folder."""
    weights, place = _weights(mlp), folder()
    if place is None or len(weights) < 2:
        return None
    hidden, width = weights[0].shape
    if hidden * hidden * (width + len(weights[1])) < SMALLEST:
        return None
    return TensorStore(place, LIMIT_GB)


def _put(store: TensorStore, key: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    try:
        store.put(key, tensors, facts)
    except (ZooExpError, OSError) as error:  # it costs time, not the run
        log.debug(f"the kernel of the projector is not kept: {error}")


def _weights(mlp: object) -> list[Tensor]:
    """W1 [H, W], and W2 [D, H] if there is one."""
    return [value for _, value in _parts(mlp) if isinstance(value, Tensor) and value.ndim == 2]


def _parts(mlp: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of the fields of a projector, and of the dataclasses in it."""
    for field in dataclasses.fields(mlp):  # type: ignore[arg-type]
        value = getattr(mlp, field.name)
        if dataclasses.is_dataclass(value):
            yield from _parts(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _flattened(value: Any, found: dict[str, Tensor]) -> Any:
    """Nested lists of names, for nested lists or tuples of tensors; the tensors go to `found`."""
    if isinstance(value, Tensor):
        name = str(len(found))
        found[name] = value
        return name
    return [_flattened(one, found) for one in value]


def _arranged(layout: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_flattened`."""
    return tensors[layout] if isinstance(layout, str) else [_arranged(one, tensors) for one in layout]

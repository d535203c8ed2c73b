"""A folder of safetensors files by key: memory-mapped, checked, bounded, and shared by independent processes."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.files import log, remove_leftovers, replaced

SUFFIX = ".safetensors"
_METADATA = "zoo_exp"
"""The one metadata entry of a file, as JSON: safetensors does not keep the order of several."""
_ALIGNMENT = 64
"""Tensors begin at a multiple of so many bytes, as far as their sizes allow: mapped ones are aligned as all others."""
_RECOUNT = 256
"""The size of the folder is counted again after so many writes, since other processes write there too."""
Entry = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the JSON facts of an entry."""


class TensorStore:
    """Entries are files `HASH[:2]/HASH.safetensors`, replaced in one step; readers see a whole entry or none.

    A file holds its key and a checksum of its content, so that a renamed or damaged file is never taken for another
    entry. An entry that cannot be read counts as missing: it costs time, not the run.

    Args:
        folder: created with the first entry.
        limit_gb: bytes / 1e9 of all entries; the least recently used ones are removed first.

    Raises:
        InvalidValueError: a limit that is no positive number.
    """

    def __init__(self, folder: Path, limit_gb: float = 50.0) -> None:
        if not (math.isfinite(limit_gb) and limit_gb > 0):
            raise InvalidValueError(f"limit_gb={limit_gb}: a number of gigabytes above 0 is expected")
        self.folder, self.limit = Path(folder), int(limit_gb * 1e9)
        self._size = self._count()
        self._writes = 0

    def get(self, key: str) -> Entry | None:
        """Tensors (on the CPU, mapped from the file) and facts of an entry; None where it is missing.

        A damaged entry is named, removed where that is possible, and counts as missing.
        """
        path = self._path(key)
        try:
            if not path.exists():
                return None
            found = _read(path, key)
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            log.warning(f"{path} is damaged ({error}): it is computed again")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write an entry; it replaces one with the same key.

        Raises:
            MissingFileError: the folder cannot be written to, or the disk is full.
        """
        # Copies: safetensors refuses tensors that share memory.
        plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        header = {"key": key, "facts": dict(facts), "sha256": _digest(key, plain, facts)}
        data = save(plain, {_METADATA: json.dumps(header, sort_keys=True)})
        start = 8 + int.from_bytes(data[:8], "little")
        padding = -start % _ALIGNMENT
        size = len(data) + padding
        if size > self.limit:
            return
        with replaced(self._path(key), sync=False) as file:  # the checksum detects what a power failure tears
            file.write((start - 8 + padding).to_bytes(8, "little"))
            file.write(memoryview(data)[8:start])
            file.write(b" " * padding)  # the format allows spaces after the header
            file.write(memoryview(data)[start:])
        self._size += size
        self._writes += 1
        if self._writes % _RECOUNT == 0:
            self._size = self._count()
        if self._size > self.limit:
            self._make_room()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of every entry; `.bin` files are those of earlier versions."""
        found = []
        for path in (*self.folder.glob(f"*/*{SUFFIX}"), *self.folder.glob("*/*.bin")):
            with suppress(OSError):  # another process makes room too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _count(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _make_room(self) -> None:
        remove_leftovers(self.folder)
        entries = sorted(self._entries())
        self._size = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self._size <= self.limit * 0.9:
                break
            with suppress(OSError):
                path.unlink()
            self._size -= size


def _read(path: Path, key: str) -> Entry:
    """The content of a file.

    Raises:
        ValueError: it is the entry of another key, or its checksum does not fit.
        SafetensorError: it is no safetensors file.
    """
    # Its own error for a file without the right to read it does not name the reason.
    path.open("rb").close()
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_METADATA, "null"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not isinstance(header, dict) or not isinstance(header.get("facts"), dict):
        raise ValueError("it has no header")
    if header.get("key") != key:
        raise ValueError("it is the entry of another key")
    if header.get("sha256") != _digest(key, tensors, header["facts"]):
        raise ValueError("its checksum does not fit")
    return tensors, header["facts"]


def _digest(key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 of everything that an entry says."""
    state = hashlib.sha256(json.dumps([key, dict(facts)], sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            state.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return state.hexdigest()

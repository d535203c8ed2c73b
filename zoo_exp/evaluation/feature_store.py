"""A folder of tensors by key: memory-mapped, checked, bounded, and shared by processes that never meet."""

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_exp.files import log, replaced

_MAGIC = b"ZOOEXP01"
_HEAD = len(_MAGIC) + 32 + 8  # magic, SHA-256 of all that follows, length of the JSON part
_ALIGN = 64
_RECOUNT = 256
"""After so many writes the folder is counted again, since other processes write there too."""
Entry = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and what JSON can hold about them."""
ABANDONED = 3600.0
"""Seconds by which a half-written entry is older than the newest whole one before it is removed."""


class FeatureStore:
    """Entries are files `KEY[:2]/KEY.bin`, written in one step; readers see a whole entry or none.

    Args:
        folder: made when the first entry is written.
        limit_gb: bytes / 1e9 that the entries may take together; the ones that were not used longest go first.
    """

    def __init__(self, folder: Path, limit_gb: float = 50.0) -> None:
        self.folder, self.limit = Path(folder), int(limit_gb * 1e9)
        self._size = self._count()
        self._writes = 0

    def get(self, key: str) -> Entry | None:
        """Tensors (on the CPU, mapped from the file) and facts of an entry; None if there is none.

        A damaged entry is named, removed, and treated as missing.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                # A private map: what a caller writes to its tensors stays in its own memory.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, ValueError):  # an empty file cannot be mapped
                self._drop(path)
            return None
        found = _unpack(data)
        if found is None:
            self._drop(path)
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write an entry, in the place of one with the same key."""
        data = _pack(tensors, facts)
        if len(data) > self.limit:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path, sync=False) as file:  # the checksum finds what a power cut tears
            file.write(data)
        self._size += len(data)
        self._writes += 1
        if self._writes % _RECOUNT == 0:
            self._size = self._count()
        if self._size > self.limit:
            self._make_room()

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.bin"

    def _drop(self, path: Path) -> None:
        log.warning(f"{path} is damaged: it is removed and made again")
        path.unlink(missing_ok=True)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of every entry."""
        found = []
        for path in self.folder.glob("*/*.bin"):
            with suppress(FileNotFoundError):  # another process makes room too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _count(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _make_room(self) -> None:
        entries = sorted(self._entries())
        self._size = sum(size for _, size, _ in entries)
        for path in self.folder.glob("*/.*.tmp"):  # of processes that were killed
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < entries[-1][0] - ABANDONED:
                    path.unlink()
        for _, size, path in entries:
            if self._size <= self.limit * 0.9:
                break
            path.unlink(missing_ok=True)
            self._size -= size


def _pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    parts, layout, offset = [], {}, 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        layout[name] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "at": offset,
        }
        parts.append(raw + bytes(-len(raw) % _ALIGN))
        offset += len(parts[-1])
    header = json.dumps({"tensors": layout, "facts": dict(facts)}).encode()
    header += b" " * (-(_HEAD + len(header)) % _ALIGN)
    body = len(header).to_bytes(8, "little") + header + b"".join(parts)
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpack(data: mmap.mmap) -> Entry | None:
    view = memoryview(data)
    start = len(_MAGIC) + 32
    if (
        bytes(view[: len(_MAGIC)]) != _MAGIC
        or hashlib.sha256(view[start:]).digest() != view[len(_MAGIC) : start]
    ):
        return None
    length = int.from_bytes(view[start:_HEAD], "little")
    header = json.loads(bytes(view[_HEAD : _HEAD + length]))
    tensors = {}
    for name, part in header["tensors"].items():
        dtype, shape = getattr(torch, part["dtype"]), part["shape"]
        count = int(torch.Size(shape).numel())
        at = _HEAD + length + part["at"]
        flat = (
            torch.frombuffer(data, dtype=dtype, count=count, offset=at)
            if count
            else torch.empty(0, dtype=dtype)
        )
        tensors[name] = flat.reshape(shape)
    return tensors, header["facts"]

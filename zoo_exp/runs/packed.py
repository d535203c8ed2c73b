"""Columns of numbers for millions of records: blocks, each in the smallest type that holds its numbers exactly.

Most columns of a run repeat few numbers (scores, kept tokens, FLOPs) or count up (positions in a file), so that a
number takes one or two bytes instead of eight.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 8192
"""Numbers per block."""
Numbers = NDArray[Any]
_UNSIGNED = (np.uint8, np.uint16, np.uint32)


class _Block(NamedTuple):
    """Numbers: `table[codes]`, or `base + codes`, or `codes`; `table[0]` each if there are no codes.

    Attributes:
        size: how many numbers.
        codes: one per number.
        table: distinct numbers.
        base: smallest number.
    """

    size: int
    codes: Numbers | None
    table: Numbers | None = None
    base: int | None = None

    def values(self) -> Numbers:
        if self.codes is None:
            assert self.table is not None
            return np.repeat(self.table, self.size)
        if self.base is not None:
            return self.codes.astype(np.int64) + self.base
        return self.codes if self.table is None else self.table[self.codes]


class Column:
    """A growing column of int64 or float64; nan and the sign of zero are kept.

    Args:
        kind: `q` for whole numbers, `d` for floats, as in the module `array`.
        values: its first numbers.

    Attributes:
        append: adds a number; `pack` must be called now and then.

    >>> column = Column("d", [0.5, 0.5, 1.0])
    >>> column.append(0.5)
    >>> column.values().tolist(), column[2], len(column)
    ([0.5, 0.5, 1.0, 0.5], 1.0, 4)
    """

    __slots__ = ("_blocks", "_open", "append", "kind")

    def __init__(self, kind: Literal["q", "d"], values: Sequence[float] | Numbers = ()) -> None:
        self.kind = kind
        self._open: array[Any] = array(kind)
        self.append: Callable[[float], None] = self._open.append
        whole = np.asarray(values, self._type)
        full = len(whole) - len(whole) % BLOCK
        self._blocks = [_packed(whole[start : start + BLOCK]) for start in range(0, full, BLOCK)]
        self._open.extend(whole[full:].tolist())

    @property
    def _type(self) -> type[np.generic]:
        return np.int64 if self.kind == "q" else np.float64

    def __len__(self) -> int:
        return sum(block.size for block in self._blocks) + len(self._open)

    def __getitem__(self, place: int) -> Any:
        block, inside = divmod(place, BLOCK)
        return self._open[inside] if block == len(self._blocks) else self._blocks[block].values()[inside]

    def pack(self, last: bool = False) -> None:
        """Pack what was appended, if it fills a block; to be called at least once per `BLOCK` numbers.

        Args:
            last: pack the rest, too; nothing may be appended afterwards.
        """
        if self._open and (last or len(self._open) == BLOCK):
            self._blocks.append(_packed(np.array(self._open, self._type)))
            del self._open[:]

    def values(self) -> Numbers:
        """All numbers, int64 or float64 [n]."""
        parts = [block.values() for block in self._blocks]
        return np.concatenate([*parts, np.array(self._open, self._type)])


def coded(values: Numbers) -> tuple[Numbers, Numbers]:
    """Distinct numbers, and the place of each number among them in the smallest type, compared bit by bit."""
    table, codes = np.unique(values.view(np.int64), return_inverse=True)
    return table.view(values.dtype), codes.astype(smallest(len(table) - 1))


def smallest(highest: int) -> type[np.generic]:
    """The smallest unsigned type that holds numbers up to `highest`."""
    return next((kind for kind in _UNSIGNED if highest <= np.iinfo(kind).max), np.uint64)


def _packed(values: Numbers) -> _Block:
    size, bits = len(values), values.view(np.int64)
    if (bits == bits[0]).all():
        return _Block(size, None, values[:1].copy())
    base, codes = None, values
    if values.dtype == np.int64:
        low, high = int(values.min()), int(values.max())
        if high - low <= np.iinfo(np.uint32).max:
            base, codes = low, (values - low).astype(smallest(high - low))
            if codes.itemsize <= 2:
                return _Block(size, codes, None, base)
    table, places = coded(values)
    if places.nbytes + table.nbytes < codes.nbytes:
        return _Block(size, places, table)
    return _Block(size, codes.copy() if base is None else codes, None, base)

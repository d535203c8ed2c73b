"""Kept visual tokens of every question under every arm: one bit per token, in `kept.parquet`.

While a run answers, batches are appended to journals; a merge moves them into one Parquet file, where equal masks are
stored once (questions about one image), everything else is compressed. `docs/comparing.md` has the measured size.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from zoo_exp.files import DamagedRowError, Row, log, replaced, set_aside
from zoo_exp.runs import folder, lock
from zoo_exp.runs.reading import optional
from zoo_exp.runs.records import VERSION, version_of

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ("task", "arm_id", "sample_id", "layout", "kept")
LARGEST = 2**26
"""Bytes of the masks of one batch; protects readers from files made to exhaust their memory."""
_LAYOUT = re.compile(r"\d{1,6}(x\d{1,6}(\+\d{1,6}x\d{1,6})?)?", re.ASCII)


def count(layout: str) -> int:
    """Number of visual tokens of a layout.

    >>> count("24x24"), count("24x24+2x3"), count("17"), count("2x2 2x2")
    (576, 584, 17, 8)
    """
    total = 0
    for image in layout.split():
        base, _, tiles = image.partition("+")
        sides = [int(side) for side in base.split("x")]
        total += sides[0] * (sides[1] if len(sides) > 1 else 1)
        if tiles:
            rows, width = map(int, tiles.split("x"))
            total += rows * (width + 1)
    return total


@dataclass(frozen=True, slots=True)
class Kept:
    """What an arm kept of the images of a question.

    Attributes:
        layout: how the visual tokens of each image lie, separated by blanks: `ROWSxCOLUMNS`; `SIDExSIDE+ROWSxWIDTH`
            for a base image with joined tiles whose rows end with a newline token; a number, if they form no grid.
        bits: one bit per visual token of all images, the first one lowest; 1 where it is kept.
    """

    layout: str
    bits: bytes

    @classmethod
    def of(cls, layout: str, indices: Collection[int]) -> Self:
        """From the indices of the kept tokens, counted through all images of the question."""
        flags = np.zeros(count(layout), np.uint8)
        flags[list(indices)] = 1
        return cls(layout, np.packbits(flags, bitorder="little").tobytes())

    def indices(self) -> list[int]:
        """Indices of the kept tokens, ascending, counted through all images."""
        flags = np.unpackbits(np.frombuffer(self.bits, np.uint8), bitorder="little")
        found: list[int] = np.flatnonzero(flags[: count(self.layout)]).tolist()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRow:
    """What one arm kept in a batch."""

    task: str
    cell: str
    arm_id: str
    kept: Mapping[str, Kept]
    """Sample id -> kept tokens."""

    def to_row(self) -> Row:
        """Convert to JSON values, in a fixed order of keys."""
        bits = b"".join(one.bits for one in self.kept.values())
        return {
            "version": VERSION,
            "task": self.task,
            "cell": self.cell,
            "arm_id": self.arm_id,
            "sample_ids": list(self.kept),
            "layouts": [one.layout for one in self.kept.values()],
            "kept": base64.b64encode(zlib.compress(bits)).decode("ascii"),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Create from a row.

        Raises:
            DamagedRowError: the row is not valid; the message gives the reason.
            InvalidValueError: the row has a newer version.
        """
        version_of(row)
        texts = [row.get(name) for name in ("task", "cell", "arm_id", "kept")]
        lists: list[Any] = [row.get(name) for name in ("sample_ids", "layouts")]
        if not all(type(text) is str for text in texts) or not all(_texts(one) for one in lists):
            raise DamagedRowError("it lacks task, cell, arm_id, sample_ids, layouts or kept")
        samples, layouts = lists
        if len(samples) != len(layouts) or not all(map(valid, layouts)):
            raise DamagedRowError("layouts do not fit the samples")
        sizes = [(count(layout) + 7) // 8 for layout in layouts]
        if sum(sizes) > LARGEST:
            raise DamagedRowError("its masks are too large")
        try:
            unpack = zlib.decompressobj()
            bits = unpack.decompress(base64.b64decode(str(row["kept"]), validate=True), sum(sizes) + 1)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise DamagedRowError(f"kept: {error}") from None
        if len(bits) != sum(sizes):
            raise DamagedRowError("kept has another size than its layouts")
        ends = np.cumsum([0, *sizes])
        parts = {
            sample: Kept(layout, bits[ends[place] : ends[place + 1]])
            for place, (sample, layout) in enumerate(zip(samples, layouts, strict=True))
        }
        return cls(task=row["task"], cell=row["cell"], arm_id=row["arm_id"], kept=parts)


def valid(layout: str) -> bool:
    """Whether a text is a layout of at least one image, or empty (a question without an image)."""
    return all(_LAYOUT.fullmatch(image) for image in layout.split())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is str for one in value)


def read(
    run: Path, task: str | None = None, samples: Collection[str] | None = None
) -> dict[tuple[str, str, str], Kept]:
    """(task, sample id, arm id) -> what was kept, merged or not; what cannot be read is reported and skipped.

    Args:
        run: the run folder.
        task: only this task; all, if None.
        samples: only these questions; all, if None.
    """
    found: dict[tuple[str, str, str], Kept] = {}
    for row in _journal_rows(run):
        for sample, kept in row.kept.items():
            if task in (None, row.task) and (samples is None or sample in samples):
                found.setdefault((row.task, sample, row.arm_id), kept)
    table = _merged(run, task, samples)
    if table is not None:
        columns = [table.column(name).to_pylist() for name in COLUMNS]
        for name, arm, sample, layout, bits in zip(*columns, strict=True):
            if valid(layout) and len(bits) == (count(layout) + 7) // 8:
                found.setdefault((name, sample, arm), Kept(layout, bits))
    return found


def _journal_rows(run: Path, damaged: list[str] | None = None) -> Iterator[KeptRow]:
    for path in folder.journals(run, folder.KEPT):
        yield from optional(path, KeptRow.from_row, damaged)


def _merged(
    run: Path,
    task: str | None = None,
    samples: Collection[str] | None = None,
    damaged: list[str] | None = None,
) -> "pyarrow.Table | None":
    import pyarrow as pa
    from pyarrow import parquet

    path = folder.merged(run, folder.KEPT, ".parquet")
    if not path.is_file():
        return None
    wanted: list[tuple[str, str, Any]] = [("task", "=", task)] if task is not None else []
    wanted += [("sample_id", "in", list(samples))] if samples is not None else []
    try:
        return parquet.read_table(path, columns=list(COLUMNS), filters=wanted or None).cast(_schema())
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        why = f"{path} is damaged ({str(error).splitlines()[0]}): it is skipped"
        if damaged is None:
            log.warning(why)
        else:
            damaged.append(why)
        return None


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    return pa.schema([(name, pa.binary() if name == "kept" else pa.string()) for name in COLUMNS])


def merge(run: Path, arms: Collection[str] = ()) -> None:
    """Move journals into `kept.parquet`; equal rows give equal bytes, whatever processes wrote them.

    Args:
        run: the run folder; only one process merges at a time, others wait.
        arms: ids of the run's arms, others are left out; empty keeps all.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with lock.waiting(run, "merge"):
        journals = folder.journals(run, folder.KEPT)
        if not journals:
            return
        damaged: list[str] = []
        merged = _merged(run, damaged=damaged)
        if damaged:
            set_aside(folder.merged(run, folder.KEPT, ".parquet"), move=True)
        new: Sequence[Sequence[Any]] = [
            (row.task, row.arm_id, sample, kept.layout, kept.bits)
            for row in _journal_rows(run, damaged)
            for sample, kept in row.kept.items()
        ]
        for sentence in damaged:
            log.warning(sentence)
        schema = _schema()
        arrays = [
            pa.array(values, field.type) for values, field in zip(zip(*new, strict=True), schema, strict=True)
        ]
        tables = [*([merged] if merged is not None else [])]
        tables += [pa.Table.from_arrays(arrays, schema=schema)] if new else []
        if tables:
            table = pa.concat_tables(tables)
            keys = [table.column(name).to_pylist() for name in COLUMNS[:3]]
            # Of rows with one key, the one that was merged earlier.
            places: dict[tuple[str, str, str], int] = {}
            for place, key in enumerate(zip(*keys, strict=True)):
                if not arms or key[1] in arms:
                    places.setdefault(key, place)
            with replaced(folder.merged(run, folder.KEPT, ".parquet")) as file:
                parquet.write_table(
                    table.take([places[key] for key in sorted(places)]).combine_chunks(),
                    file,
                    compression="zstd",
                    compression_level=19,
                    # One page per column: equal masks are found however far apart they are.
                    data_page_size=LARGEST,
                    dictionary_pagesize_limit=LARGEST,
                    use_dictionary=[name for name in COLUMNS if name != "kept"],
                    column_encoding={"kept": "DELTA_LENGTH_BYTE_ARRAY"},
                    write_statistics=["task", "arm_id"],
                )
        for journal in journals:
            journal.unlink()

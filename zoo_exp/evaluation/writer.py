"""What one process writes for one cell: kept tokens, masks, timings and records, in a journal each."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from zoo_exp.core.tokens import Selection
from zoo_exp.runs import folder
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.kept import KeptRow
from zoo_exp.runs.records import MaskRow, Record, Timing

Chosen = dict[str, list[Selection]]
"""Sample id -> selection per image, as masks show it."""


@dataclass
class Rows:
    """What arms have made of a batch and is not written yet."""

    records: list[Record] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    kept: list[KeptRow] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class CellWriter:
    """The journals of a cell.

    Args:
        run: the run folder.
        cell: id of the cell.
        rank: number of the process.
    """

    def __init__(self, run: Path, cell: str, rank: int) -> None:
        self._kept, self._masks, self._timings, self._records = (
            Journal(run, kind, cell, rank)
            for kind in (folder.KEPT, folder.MASKS, folder.TIMINGS, folder.RECORDS)
        )

    def write(
        self,
        masks: Iterable[MaskRow],
        timings: Iterable[Timing],
        records: Iterable[Record],
        kept: Iterable[KeptRow] = (),
    ) -> None:
        """Write the rows of a batch; they are on disk when this returns.

        Records come last: a recorded question is not asked again, so everything else must be there by then.
        """
        self._kept.append(row.to_row() for row in kept)
        self._masks.append(row.to_row() for row in masks)
        self._timings.append(row.to_row() for row in timings)
        self._records.append(row.to_row() for row in records)

    def __enter__(self) -> "CellWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; every row that was appended is on disk already."""
        for journal in (self._kept, self._masks, self._timings, self._records):
            journal.close()

"""What one process writes for one cell: masks, timings and records, each to a journal of its own."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from zoo_exp.runs import folder
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.records import MaskRow, Record, Timing


class CellWriter:
    """The three journals of a cell.

    Args:
        run: the run folder.
        cell: id of the cell.
        rank: number of the process.
    """

    def __init__(self, run: Path, cell: str, rank: int) -> None:
        self._masks, self._timings, self._records = (
            Journal(run, kind, cell, rank) for kind in (folder.MASKS, folder.TIMINGS, folder.RECORDS)
        )

    def write(self, masks: Iterable[MaskRow], timings: Iterable[Timing], records: Iterable[Record]) -> None:
        """Write the rows of a batch; they are on disk when this returns.

        Records come last: a recorded question is not asked again, so its masks and timings must be there by then.
        """
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
        for journal in (self._masks, self._timings, self._records):
            journal.close()

"""What one process writes for one cell: records, timings and masks, each to a journal of its own."""

from pathlib import Path
from types import TracebackType

from zoo_exp.evaluation.mask_rows import MaskWriter
from zoo_exp.runs.journal import Journal


class CellWriter:
    """The three journals of a cell.

    Args:
        folder: the run folder.
        cell: id of the cell.
        rank: number of the process.
    """

    def __init__(self, folder: Path, cell: str, rank: int) -> None:
        self.records = Journal(folder, "records", cell, rank)
        self.timings = Journal(folder, "timings", cell, rank)
        self.masks = MaskWriter(folder, cell, rank)

    def __enter__(self) -> "CellWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; every row that was appended is on disk already."""
        self.records.close()
        self.timings.close()
        self.masks.journal.close()

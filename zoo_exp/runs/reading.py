"""Read the rows of a run folder, merged or not, as typed rows and as data frames for statistics.

Journals are read before the merged file, so that a reader that runs during a merge misses nothing: rows removed from
the journals are in the merged file by then. Damaged rows are reported and skipped. Timings and masks are optional: a
file of these that cannot be read at all is reported and skipped as well.
"""

import gc
import json
import marshal
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zoo_exp.errors import MissingFileError
from zoo_exp.files import Row, log, read_lines
from zoo_exp.runs import folder
from zoo_exp.runs.lines import Lines, position
from zoo_exp.runs.packed import Column, Numbers
from zoo_exp.runs.records import ARMS_IN_CALL, MaskRow, Timing, record_row

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
COLUMNS = (
    *("task", "arm", "sample_id", "response", "score", "kept_tokens", "layer_tokens", "arm_id", "row"),
    *("selector", "options", "budget", "seed", "image_id", "parts", "n_visual", "question", "reference"),
    *("flops_tflop", "prefill_tflop", "selector_tflop", "cell", "not_applicable"),
)
ARM_COLUMNS = ["arm", "arm_id", "row", "selector", "options", "budget", "seed"]
MILLISECONDS = ("select_ms", "prefill_decode_ms", "vision_ms")
REQUESTS = "requests_per_s"
"""Column of timings by engines with continuous batching, which have no time for prefill and decoding."""


def records(
    run: Path,
    cells: Collection[str] | None = None,
    damaged: list[str] | None = None,
    arms: Collection[str] = (),
) -> Iterator[Row]:
    """Iterate over records as mappings with the keys of `Record`; a record may occur twice.

    Args:
        run: the run folder.
        cells: ids of the cells whose journals to read; the merged file is read completely.
        damaged: list to append reports of damaged rows to; None logs them.
        arms: ids of arms: most lines of other arms are skipped without parsing them, which is many times faster.

    Raises:
        MissingFileError: a file exists but cannot be read.
        InvalidValueError: a row was written by a newer version of the package.
    """
    for _, row in placed(Lines(record_files(run, cells)), damaged, arms):
        yield row


def record_files(run: Path, cells: Collection[str] | None = None) -> list[Path]:
    """The files of a run's records in the order of reading."""
    return [*folder.journals(run, folder.RECORDS, cells), folder.merged(run, folder.RECORDS)]


def placed(
    files: Lines, damaged: list[str] | None = None, arms: Collection[str] = ()
) -> Iterator[tuple[int, Row]]:
    """Iterate over records with their positions in some files, from which `files` can read them again.

    Args:
        files: of `record_files`.
        damaged: see `records`.
        arms: see `records`.
    """
    ids = [json.dumps(arm, ensure_ascii=False).encode() for arm in arms]

    def wanted(line: bytes) -> bool:
        # Rows of version 1 may lack the id.
        return b'"arm_id"' not in line or any(arm in line for arm in ids)

    for number, path in enumerate(files.paths):
        opened = partial(files.stream, number)
        for line in read_lines(path, record_row, damaged, wanted if ids else None, opened):
            yield position(number, line.offset), line.row


def timings(run: Path, cells: Collection[str] | None = None) -> Iterator[Timing]:
    """Iterate over all readable timings, those not merged yet first."""
    for path in [*folder.journals(run, folder.TIMINGS, cells), folder.merged(run, folder.TIMINGS)]:
        yield from _optional(path, Timing.from_row)


def masks(run: Path, damaged: list[str] | None = None) -> list[MaskRow]:
    """All readable masks, one row per question, merged ones first."""
    journals = [
        row
        for path in folder.journals(run, folder.MASKS)
        for row in optional(path, MaskRow.from_row, damaged)
    ]
    return join_masks([*optional(folder.merged(run, folder.MASKS), MaskRow.from_row, damaged), *journals])


def join_masks(rows: Sequence[MaskRow]) -> list[MaskRow]:
    """Join rows to one per question; arms of later rows are appended to the first row of their question."""
    joined: dict[tuple[str, str], MaskRow] = {}
    for row in rows:
        key = row.task, row.sample_id
        mine = joined.setdefault(key, replace(row, arms=()))
        # Version 1 did not record arm ids; labels are unique in an experiment, too.
        known = {arm.arm for arm in mine.arms} | {arm.arm_id for arm in mine.arms if arm.arm_id}
        more = tuple(arm for arm in row.arms if arm.arm not in known and arm.arm_id not in known)
        if more and row.grid == mine.grid:
            joined[key] = replace(mine, arms=mine.arms + more)
    return [row for row in joined.values() if row.arms]


def optional(path: Path, make: Callable[[Mapping[str, Any]], T], damaged: list[str] | None = None) -> list[T]:
    """Rows of an optional file; empty if it cannot be read."""
    return list(_optional(path, make, damaged))


def _optional(
    path: Path, make: Callable[[Mapping[str, Any]], T], damaged: list[str] | None = None
) -> Iterator[T]:
    try:
        for line in read_lines(path, make, damaged):
            yield line.row
    except MissingFileError as error:
        if damaged is None:
            log.warning(f"{error}: it is skipped")
        else:
            damaged.append(f"{error}: it is skipped")


def recorded_path(run: Path) -> Path:
    """The merged records of a run; they may still be in journals.

    Raises:
        MissingFileError: the run has recorded nothing.
    """
    path = folder.merged(run, folder.RECORDS)
    if not folder.recorded(run):
        raise MissingFileError(
            f"cannot read {path}: no records yet; rerun the same command to resume the run"
        )
    return path


def read_records(run: Path, arms: Collection[str] = (), cell: str | None = None) -> "pd.DataFrame":
    """Read all records of a run, one row each with `COLUMNS`, unique by (task, arm_id, sample_id).

    Args:
        run: the run folder.
        arms: ids of the arms to read; empty reads all.
        cell: id of the only cell to read; None reads all.

    Raises:
        MissingFileError: there are no records, or a file cannot be read.
        InvalidValueError: a row was written by a newer version of the package.
    """
    import pandas as pd  # takes 0.4 s, which runs do not spend before their first answer

    path = recorded_path(run)
    # Columns of shared values instead of mappings: several times less memory, for runs of millions of answers.
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    appends = [(name, columns[name].append) for name in COLUMNS]
    shared = _Shared()
    with without_collector():
        for row in records(run, cell if cell is None else [cell], arms=arms):
            if (not arms or row["arm_id"] in arms) and (cell is None or row["cell"] == cell):
                for name, append in appends:
                    append(shared(row.get(name, math.nan)))
    if not columns["arm"]:
        raise MissingFileError(f"{path} contains no records yet: rerun the same command to resume the run")
    frame = pd.DataFrame(columns)
    frame["score"] = frame["score"].astype(float)  # nan where reference answers are not public
    frame["layer_tokens"] = frame["layer_tokens"].astype(float)
    # A resumed or distributed run may contain a sample twice, with the same response.
    return frame.drop_duplicates(["task", "arm_id", "sample_id"], ignore_index=True)


class _Shared:
    """One object for all equal values: arms repeat the texts of a question, and questions repeat those of an arm."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The first value that was equal to this one, of the same type at every level."""
        if isinstance(value, str):
            return self._known.setdefault(value, value)
        if isinstance(value, dict | list):
            return self._known.setdefault(marshal.dumps(value, 2), value)
        return value


def read_timings(run: Path) -> "pd.DataFrame":
    """Milliseconds per question by (task, arm): the median over batches, so that warm-up has no influence.

    Columns: task, arm, select_ms, prefill_decode_ms, vision_ms, and requests_per_s for engines whose batches have no
    stages; empty if the run has no timings. `prefill_decode_ms` of arms that shared calls with others is missing: a
    share of a larger call is not what the arm takes alone. `arms_in_call`, if any did, is the number of arms in a call.
    """
    import pandas as pd

    names = (*MILLISECONDS, REQUESTS)
    found: dict[tuple[str, str], list[Column]] = {}
    most: dict[tuple[str, str], int] = {}
    for timing in timings(run):
        key, shared = (timing.task, timing.arm), timing.arms_in_call > 1
        if key not in found:
            found[key] = [Column("d") for _ in names]
        most[key] = max(timing.arms_in_call, most.get(key, 1))
        columns = found[key]
        for column, name in zip(columns, MILLISECONDS, strict=False):
            known = None if shared and name == "prefill_decode_ms" else getattr(timing, name)
            column.append(_per_question(known, timing.batch_size))
        columns[-1].append(_requests(timing))
        for column in columns:
            column.pack()
    rows = [
        (*key, *(_median(column.values()) for column in columns), most[key]) for key, columns in found.items()
    ]
    frame = pd.DataFrame(rows, columns=["task", "arm", *names, ARMS_IN_CALL])
    empty = frame[REQUESTS].isna().all(), (frame[ARMS_IN_CALL] == 1).all()
    return frame.drop(
        columns=[name for name, drop in zip((REQUESTS, ARMS_IN_CALL), empty, strict=True) if drop]
    )


def _median(values: Numbers) -> float:
    """Median of the numbers that are not nan; nan if there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def _requests(timing: Timing) -> float:
    """Responses per second of a batch, selection included, where prefill and decoding are no stage of it."""
    if timing.prefill_decode_ms is not None or not timing.spent_ms:
        return math.nan
    return timing.batch_size / timing.spent_ms * 1e3


def _per_question(milliseconds: float | None, batch_size: int) -> float:
    return math.nan if milliseconds is None else milliseconds / batch_size


@contextmanager
def without_collector() -> Iterator[None]:
    """Disable the garbage collector: rows contain no cycles, and searching millions of them takes 1/3 of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

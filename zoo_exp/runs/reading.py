"""Read the rows of a run folder, merged or not: as typed rows, and as the data frames that statistics are made of.

Journals come before the merged file, so that a reader beside a merge misses nothing: what vanished from the journals
is in the merged file by then. A damaged row is named and left out. Timings and masks can be done without: a file of
theirs that cannot be read at all is named and left out too.
"""

import gc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from zoo_exp.errors import MissingFileError
from zoo_exp.files import Row, log, read_lines
from zoo_exp.runs import folder
from zoo_exp.runs.records import MaskRow, Timing, record_row

T = TypeVar("T")
COLUMNS = (
    *("task", "arm", "sample_id", "response", "score", "kept_tokens", "layer_tokens", "arm_id", "row"),
    *("selector", "options", "budget", "seed", "image_id", "parts", "n_visual", "question", "reference"),
    *("flops_tflop", "prefill_tflop", "selector_tflop", "cell"),
)
ARM_COLUMNS = ["arm", "arm_id", "row", "selector", "options", "budget", "seed"]
MILLISECONDS = ("select_ms", "prefill_decode_ms", "vision_ms")


def records(
    run: Path, cells: Collection[str] | None = None, damaged: list[str] | None = None
) -> Iterator[Row]:
    """Records as mappings with the keys of `Record`; a record may come twice.

    Args:
        run: the run folder.
        cells: ids of the cells whose journals matter; the merged file is read whole.
        damaged: takes the sentences about damaged rows; None logs them.

    Raises:
        MissingFileError: a file is there and cannot be read.
        InvalidValueError: a row of a newer version of the package.
    """
    for path in [*folder.journals(run, folder.RECORDS, cells), folder.merged(run, folder.RECORDS)]:
        for line in read_lines(path, record_row, damaged):
            yield line.row


def timings(run: Path, cells: Collection[str] | None = None) -> Iterator[Timing]:
    """All timings that can be read, those not merged yet first."""
    for path in [*folder.journals(run, folder.TIMINGS, cells), folder.merged(run, folder.TIMINGS)]:
        yield from optional(path, Timing.from_row)


def masks(run: Path, damaged: list[str] | None = None) -> list[MaskRow]:
    """All masks that can be read, one row per question, merged ones first."""
    journals = [
        row
        for path in folder.journals(run, folder.MASKS)
        for row in optional(path, MaskRow.from_row, damaged)
    ]
    return join_masks([*optional(folder.merged(run, folder.MASKS), MaskRow.from_row, damaged), *journals])


def join_masks(rows: Sequence[MaskRow]) -> list[MaskRow]:
    """One row per question: arms of later rows join the first row of their question."""
    joined: dict[tuple[str, str], MaskRow] = {}
    for row in rows:
        key = row.task, row.sample_id
        mine = joined.setdefault(key, replace(row, arms=()))
        # Version 1 did not write the ids of arms: labels are unique in an experiment as well.
        known = {arm.arm for arm in mine.arms} | {arm.arm_id for arm in mine.arms if arm.arm_id}
        more = tuple(arm for arm in row.arms if arm.arm not in known and arm.arm_id not in known)
        if more and row.grid == mine.grid:
            joined[key] = replace(mine, arms=mine.arms + more)
    return [row for row in joined.values() if row.arms]


def optional(path: Path, make: Callable[[Mapping[str, Any]], T], damaged: list[str] | None = None) -> list[T]:
    """The rows of a file that can be done without."""
    try:
        return [line.row for line in read_lines(path, make, damaged)]
    except MissingFileError as error:
        if damaged is None:
            log.warning(f"{error}: it is left out")
        else:
            damaged.append(f"{error}: it is left out")
        return []


def read_records(run: Path, arms: Collection[str] = (), cell: str | None = None) -> pd.DataFrame:
    """All records of a run, one row each with `COLUMNS`, unique by (task, arm_id, sample_id).

    Args:
        run: the run folder.
        arms: ids of the experiment's arms; records of others are left out. Empty takes all.
        cell: id of the only cell to read; None takes all.

    Raises:
        MissingFileError: no records, or a file that cannot be read.
        InvalidValueError: a row of a newer version of the package.
    """
    path = folder.merged(run, folder.RECORDS)
    if not folder.recorded(run):
        raise MissingFileError(
            f"cannot read {path}: no records yet; rerun the same command to resume the run"
        )
    with without_collector():
        rows = [
            row
            for row in records(run, cell if cell is None else [cell])
            if (not arms or row["arm_id"] in arms) and (cell is None or row["cell"] == cell)
        ]
    if not rows:
        raise MissingFileError(f"{path} holds no records yet: rerun the same command to resume the run")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["score"] = frame["score"].astype(float)  # hidden answers have no score: nan
    frame["layer_tokens"] = frame["layer_tokens"].astype(float)
    # A resumed or distributed run may hold a sample twice; both rows are the same answer.
    return frame.drop_duplicates(["task", "arm_id", "sample_id"], ignore_index=True)


def read_timings(run: Path) -> pd.DataFrame:
    """Per (task, arm): milliseconds per question, the median over batches (so that warm-up does not count).

    Columns: task, arm, select_ms, prefill_decode_ms, vision_ms; empty where the run has no timings.
    """
    rows = [
        {"task": timing.task, "arm": timing.arm}
        | {name: _per_question(getattr(timing, name), timing.batch_size) for name in MILLISECONDS}
        for timing in timings(run)
    ]
    frame = pd.DataFrame(rows, columns=["task", "arm", *MILLISECONDS])
    return frame.groupby(["task", "arm"], sort=False, as_index=False).median()


def recorded_arms(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The arms that have records, in order of appearance, as mappings for `statistics.arm_rows.group`."""
    arms = frame.drop_duplicates("arm_id")[ARM_COLUMNS].to_dict("records")
    # pandas turns the missing budget of an arm into nan, which is not equal to itself.
    return [{str(key): value if value == value else None for key, value in arm.items()} for arm in arms]


def _per_question(milliseconds: float | None, batch_size: int) -> float:
    return math.nan if milliseconds is None else milliseconds / batch_size


@contextmanager
def without_collector() -> Iterator[None]:
    """Rows hold no cycles; to look for some among millions of them again and again takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

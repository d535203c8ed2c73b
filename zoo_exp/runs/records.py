"""Read the records and timings of a run folder into data frames."""

import gc
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs import journal

RECORDS_FILE = "records.jsonl"
TIMINGS_FILE = "timings.jsonl"
REQUIRED = ("task", "arm", "sample_id", "response", "score", "kept_tokens")
COLUMNS = (
    *REQUIRED,
    *("arm_id", "selector", "options", "budget", "seed_index", "image_id", "parts", "n_visual"),
    *("question", "reference", "flops_tflop", "cell"),
)


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its line number (from 1).

    A last line without a line end that is no whole object is what a killed process leaves behind: ignored.

    Raises:
        MissingFileError: no such file, or a damaged line before the last one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from error
    lines = data.split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise MissingFileError(f"{path}, line {number} is damaged (not JSON: {error})") from error
        if not isinstance(row, dict):
            raise MissingFileError(f"{path}, line {number} is damaged (a JSON object is expected)")
        rows.append((number, row))
    return rows


def read_records(run_dir: Path) -> pd.DataFrame:
    """All records of a run, one row each, unique by (task, arm_id, sample_id), in file order.

    Columns are `COLUMNS`; `image_id` falls back to the sample's own id, so that every row has a cluster.

    Raises:
        MissingFileError: no records, a damaged line, or a line without a required key.
        InvalidValueError: a score outside [0, 1] or a token count that is not a whole number from 0.
    """
    path = Path(run_dir) / RECORDS_FILE
    # A run that was cut off has left journals beside the merged file, or without one.
    journals = journal.journals(Path(run_dir), "records")
    files = [*([path] if path.exists() else []), *journals]
    if not files:
        raise MissingFileError(f"cannot read {path}: no records yet; start the run again to go on with it")
    with _no_collection():
        rows = [_checked(row, file, number) for file in files for number, row in read_jsonl(file)]
    if not rows:
        raise MissingFileError(f"{path} holds no records yet: start the run again to go on with it")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    # A resumed or distributed run may hold a sample twice; both rows are the same answer.
    return frame.drop_duplicates(["task", "arm_id", "sample_id"], ignore_index=True)


def read_timings(run_dir: Path) -> pd.DataFrame:
    """Per (task, arm): milliseconds per question, the median over batches (so that warm-up does not count).

    Columns: task, arm, select_ms, generate_ms, vision_ms; empty where the run has no timings.
    """
    path = Path(run_dir) / TIMINGS_FILE
    names = {"select_ms": "select_ms", "prefill_decode_ms": "generate_ms", "vision_ms": "vision_ms"}
    rows: list[dict[str, Any]] = []
    for number, row in read_jsonl(path) if path.exists() else []:
        try:
            size = float(row["batch_size"])
            per_question = {new: _number(row.get(old)) / size for old, new in names.items()}
            rows.append({"task": str(row["task"]), "arm": str(row["arm"]), **per_question})
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise MissingFileError(f"{path}, line {number} is no timing row: {error!r}") from error
    frame = pd.DataFrame(rows, columns=["task", "arm", *names.values()])
    return frame.groupby(["task", "arm"], sort=False, as_index=False).median()


def recorded_arms(records: pd.DataFrame) -> list[dict[str, Any]]:
    """The arms that have records, in order of appearance, as mappings for `arms.group`."""
    columns = ["arm", "arm_id", "selector", "options", "budget", "seed_index"]
    arms = records.drop_duplicates("arm_id")[columns].to_dict("records")
    # pandas turns the missing budget of an arm into nan, which is not equal to itself.
    return [{str(key): value if value == value else None for key, value in arm.items()} for arm in arms]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rows hold no cycles, and looking for some in millions of them again and again takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _number(value: object) -> float:
    return math.nan if value is None else float(value)  # type: ignore[arg-type]


def _checked(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    missing = [key for key in REQUIRED if key not in row]
    if missing:
        raise MissingFileError(f"{path}, line {number} is no record: it lacks {', '.join(missing)}")
    score, kept = row["score"], row["kept_tokens"]
    if score is None:  # answers that are hidden from everybody but the benchmark's server
        score = math.nan
    elif isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise InvalidValueError(f"{path}, line {number}: score is {score!r}, allowed is a number from 0 to 1")
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 0:
        raise InvalidValueError(
            f"{path}, line {number}: kept_tokens is {kept!r}, allowed is a whole number from 0"
        )
    # What a layer selector drops on the way counts: the mean over decoder layers.
    layers = row.get("layer_tokens")
    sample, image = str(row["sample_id"]), row.get("image_id")
    n_visual = row.get("n_visual")
    return {
        **row,
        "sample_id": sample,
        "image_id": f"sample {sample}" if image in (None, "") else str(image),
        "arm_id": str(row.get("arm_id") or f"{row['arm']}#{row.get('seed_index') or 0}"),
        "seed_index": int(row.get("seed_index") or 0),
        "selector": str(row.get("selector") or row["arm"]),
        "options": row.get("options") or {},
        "parts": row.get("parts") or {},
        # Without a count, any kept token shows that there was an image.
        "n_visual": int(kept if n_visual is None else n_visual),
        "score": score,
        "kept_tokens": kept if layers is None else float(layers),
    }

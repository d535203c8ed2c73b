"""The files of a run folder, `out/NAME/ID`: every name in it is written here and nowhere else.

* experiment.json, config.yaml: what was run, by which versions, on which data.
* journals/KIND-CELL-rankR-NNN.jsonl: rows that are not merged yet, one file per cell, rank and attempt.
* records.jsonl, records.csv, records.parquet, timings.jsonl, masks.jsonl: merged rows.
* masks/HASH.png: images of the questions in masks.jsonl.
* cells/TASK.json, locks/NAME.lock: the state of each cell, and who writes it.
* results.csv, results.json, results.md, masks.png, masks_BUDGET.png, submissions/, report/: made from the rows.
* tokens.jsonl, bench/, slurm/: what the commands of that name write.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

RECORDS, TIMINGS, MASKS = "records", "timings", "masks"
KINDS = (RECORDS, TIMINGS, MASKS)
"""Kinds of rows."""
JOURNALS, CELLS, LOCKS, IMAGES = "journals", "cells", "locks", "masks"
EXPERIMENT, CONFIG, TOKENS = "experiment.json", "config.yaml", "tokens.jsonl"


def merged(run: Path, kind: str, suffix: str = ".jsonl") -> Path:
    """The merged rows of a kind; records also with the suffixes `.csv` and `.parquet`."""
    return run / f"{kind}{suffix}"


def journals(run: Path, kind: str, cells: Collection[str] | None = None) -> list[Path]:
    """Files that are not merged yet, by name; those of some cells only if `cells` is given."""
    paths = sorted((run / JOURNALS).glob(f"{kind}-*.jsonl"))
    return paths if cells is None else [path for path in paths if path.name.split("-")[1] in cells]


def journal(run: Path, kind: str, cell: str, rank: int, attempt: int) -> Path:
    """The file that one process appends the rows of a cell to. Attempts are numbered: clocks may disagree."""
    return run / JOURNALS / f"{kind}-{cell}-rank{rank}-{attempt:03d}.jsonl"


def attempts(run: Path, kind: str, cell: str, rank: int) -> int:
    """The highest number among the journals of a cell and rank, damaged ones included; 0 without any."""
    stem = f"{kind}-{cell}-rank{rank}-"
    numbers = (
        path.name.removeprefix(stem).split(".")[0] for path in (run / JOURNALS).glob(f"{stem}*.jsonl*")
    )
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def recorded(run: Path) -> list[Path]:
    """Files with records: the merged one, and the journals of a run that was interrupted."""
    path = merged(run, RECORDS)
    return [*([path] if path.is_file() else []), *journals(run, RECORDS)]


def experiment(run: Path) -> Path:
    """The manifest: the resolved configuration, versions, data revisions and device."""
    return run / EXPERIMENT


def config(run: Path) -> Path:
    """The resolved configuration for people."""
    return run / CONFIG


def cell(run: Path, task: str) -> Path:
    """How the cell of a task stands."""
    return run / CELLS / f"{task}.json"


def lock(run: Path, name: str) -> Path:
    """A lock: of a cell (its id), of the merge, or of the report."""
    return run / LOCKS / f"{name}.lock"


def mask_image(run: Path, task: str, sample_id: str) -> Path:
    """The image of a question as the model saw it."""
    name = hashlib.sha256(f"{task}/{sample_id}".encode(errors="replace")).hexdigest()[:16]
    return run / IMAGES / f"{name}.png"


def gallery(run: Path, budget: str | None = None) -> Path:
    """The mask gallery of a budget; without one, the gallery that stands for the run."""
    return run / ("masks.png" if budget is None else f"masks_{file_name(budget)}.png")


def results(run: Path, suffix: str) -> Path:
    """The tables of the run: `.csv`, `.json` or `.md`."""
    return run / f"results{suffix}"


def submissions(run: Path) -> Path:
    """Files for the servers that score a benchmark."""
    return run / "submissions"


def report(run: Path) -> Path:
    """The report on this run alone."""
    return run / "report"


def tokens(run: Path) -> Path:
    """What `python -m zoo_exp tokens` writes."""
    return run / TOKENS


def bench(run: Path) -> Path:
    """What `python -m zoo_exp bench` writes, one folder per call."""
    return run / "bench"


def inside(run: Path, path: Path) -> bool:
    """Whether a path that a file of the run names lies in the run folder."""
    return path.resolve().is_relative_to(run.resolve())


def file_name(text: str) -> str:
    """A label as part of a file name."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in text)

"""Paths inside a run folder, `out/NAME/ID`. This is the only module that defines file names of a run.

* experiment.json, config.yaml: resolved configuration, versions and data revisions.
* journals/KIND-CELL-rankR-NNN.jsonl: rows that are not merged yet, one file per cell, rank and attempt.
* records.jsonl, records.csv, records.parquet, timings.jsonl, masks.jsonl, kept.parquet: merged rows.
* masks/HASH.png: images of the questions in masks.jsonl.
* cells/TASK.json, locks/NAME.lock: state of each cell, and lock files.
* results.csv, results.json, results.md, masks.png, masks_BUDGET.png, submissions/, report/: created from the rows.
* fresh: empty; the run was started anew (`fresh=true`). The folder that it replaced is ID.before1, ID.before2 ...
* tokens.jsonl, bench/, slurm/: output of the commands of the same name.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

RECORDS, TIMINGS, MASKS, KEPT = "records", "timings", "masks", "kept"
KINDS = (RECORDS, TIMINGS, MASKS, KEPT)
"""Kinds of rows."""
JOURNALS, CELLS, LOCKS, IMAGES = "journals", "cells", "locks", "masks"
EXPERIMENT, CONFIG, TOKENS = "experiment.json", "config.yaml", "tokens.jsonl"

FRESH, ASIDE = "fresh", ".before"
"""Marker of a run that was started anew, and part of the name of the folder that it replaced."""


def merged(run: Path, kind: str, suffix: str = ".jsonl") -> Path:
    """Merged rows of a kind; records also exist with the suffixes `.csv` and `.parquet`, kept tokens only with this."""
    return run / f"{kind}{suffix}"


def journals(run: Path, kind: str, cells: Collection[str] | None = None) -> list[Path]:
    """Journals that are not merged yet, sorted by name; only those of `cells` if given."""
    paths = sorted((run / JOURNALS).glob(f"{kind}-*.jsonl"))
    return paths if cells is None else [path for path in paths if path.name.split("-")[1] in cells]


def journal(run: Path, kind: str, cell: str, rank: int, attempt: int) -> Path:
    """Journal of one process for a cell. Attempts are numbered, because clocks of machines may differ."""
    return run / JOURNALS / f"{kind}-{cell}-rank{rank}-{attempt:03d}.jsonl"


def attempts(run: Path, kind: str, cell: str, rank: int) -> int:
    """Highest attempt number of a cell and rank, including damaged journals; 0 if there is none."""
    stem = f"{kind}-{cell}-rank{rank}-"
    numbers = (
        path.name.removeprefix(stem).split(".")[0] for path in (run / JOURNALS).glob(f"{stem}*.jsonl*")
    )
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def recorded(run: Path) -> list[Path]:
    """Files with records: the merged file, and journals of an interrupted run."""
    path = merged(run, RECORDS)
    return [*([path] if path.is_file() else []), *journals(run, RECORDS)]


def experiment(run: Path) -> Path:
    """Manifest: resolved configuration, versions, data revisions and device."""
    return run / EXPERIMENT


def fresh(run: Path) -> Path:
    """Marker of a run that was started anew."""
    return run / FRESH


def config(run: Path) -> Path:
    """The resolved configuration as YAML."""
    return run / CONFIG


def cell(run: Path, task: str) -> Path:
    """State of the cell of a task."""
    return run / CELLS / f"{task}.json"


def lock(run: Path, name: str) -> Path:
    """Lock file of a cell (by id), of the merge, or of the report."""
    return run / LOCKS / f"{name}.lock"


def mask_image(run: Path, task: str, sample_id: str) -> Path:
    """Image of a question as the model received it."""
    name = hashlib.sha256(f"{task}/{sample_id}".encode(errors="replace")).hexdigest()[:16]
    return run / IMAGES / f"{name}.png"


def gallery(run: Path, budget: str | None = None) -> Path:
    """Mask gallery of a budget; without a budget, the main gallery of the run."""
    return run / ("masks.png" if budget is None else f"masks_{file_name(budget)}.png")


def results(run: Path, suffix: str) -> Path:
    """Result tables of the run: `.csv`, `.json` or `.md`."""
    return run / f"results{suffix}"


def submissions(run: Path) -> Path:
    """Submission files for evaluation servers."""
    return run / "submissions"


def report(run: Path) -> Path:
    """Report on this run only."""
    return run / "report"


def tokens(run: Path) -> Path:
    """Output of `python -m zoo_exp tokens`."""
    return run / TOKENS


def bench(run: Path) -> Path:
    """Output of `python -m zoo_exp bench`, one folder per call."""
    return run / "bench"


def inside(run: Path, path: Path) -> bool:
    """Whether a path from a file of the run lies inside the run folder."""
    return path.resolve().is_relative_to(run.resolve())


def file_name(text: str) -> str:
    """Convert a label to a string that is valid in file names."""
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in text)

"""Run folders as readers see them: found by path, loaded, and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_exp import __version__
from zoo_exp.config.identity import LATER_FIELDS, MODEL_FIELDS
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs import cells, folder, manifest
from zoo_exp.runs.reading import read_records


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: its path.
        experiment: the resolved configuration that its manifest holds.
        provenance: versions and machine.
        data: task -> which data set and revision it read; empty where an older run does not say.
        records: from `reading.read_records`.
        cells: task -> cell ids of its records (hashes of model, weights, data source and seed).
        notes: one sentence for each task that is not finished.
    """

    folder: Path
    experiment: dict[str, Any]
    provenance: dict[str, Any]
    data: dict[str, Any]
    records: pd.DataFrame
    cells: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment["name"])

    @property
    def model(self) -> dict[str, Any]:
        """Its model's configuration; `name` is what the configuration file is called."""
        return dict(self.experiment["model"])


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders behind some paths: run folders themselves, or folders above, which stand for the newest run there.

    Raises:
        MissingFileError: a path that does not exist, or holds no run.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise MissingFileError(f"no folder {path}: give a run folder (runs/NAME/ID), or runs/NAME")
        if folder.experiment(path).is_file():
            found.append(path)
            continue
        inside = [file.parent for file in path.glob(f"*/{folder.EXPERIMENT}")]
        nested = [file.parent for file in path.glob(f"*/*/{folder.EXPERIMENT}")]
        by_experiment: dict[Path, list[Path]] = {}
        for run in inside or nested:
            if folder.recorded(run):
                by_experiment.setdefault(run.parent, []).append(run)
        if not by_experiment:
            raise MissingFileError(
                f"{path} holds no run with records: python -m zoo_exp run makes one (runs/NAME/ID)"
            )
        for _, runs in sorted(by_experiment.items()):
            found.append(max(runs, key=_written))
    return list(dict.fromkeys(found))


def passed_over(found: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """What a user who named a folder above runs should know: which of several it stands for.

    Args:
        found: from `find_runs`.
        paths: what it was given.
    """
    told = []
    for run in found:
        siblings = [
            other
            for other in run.parent.glob("*")
            if folder.experiment(other).is_file() and folder.recorded(other)
        ]
        if len(siblings) > 1 and run not in map(Path, paths):
            told.append(
                f"{run.parent}: the newest of {len(siblings)} runs is {run.name}; give another folder to see it"
            )
    return told


def load_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        MissingFileError: no manifest or no records, or a file that cannot be read.
        InvalidValueError: the folder was written by a newer version of the package.
    """
    path = Path(path)
    content = manifest.read(path)
    experiment, provenance = content["experiment"], dict(content["provenance"])
    if content.get("device"):
        provenance["device"] = content["device"]
    written = str(provenance.get("zoo-exp") or __version__)
    if _release(written) > _release(__version__):
        raise InvalidValueError(
            f"{path} was written by zoo_exp {written}, this is {__version__}: "
            "a newer run may hold what this version does not understand; install the newer version"
        )
    records = read_records(path, {arm["arm_id"] for arm in experiment["arms"]})
    ids = _cells(records)
    notes = tuple(cells.unfinished(path, records, ids))
    return Run(path, experiment, provenance, content["data"], records, ids, notes)


def check_together(runs: Sequence[Run], mixed: bool = False) -> list[str]:
    """Refuse runs whose numbers do not compare, or say so where they are reported together on request.

    Attention backends must agree between all runs, as times do not compare otherwise; between runs of one model
    also its other settings, and per task the data's revision and what the cell's hash covers (weights, seed).

    Args:
        runs: all runs of the report.
        mixed: report them together, marked.

    Returns:
        Warnings for the reader (with `mixed`).

    Raises:
        InvalidValueError: runs do not compare.
    """
    problems = []
    for run in runs:
        problems += [
            f"{run.folder}: {task} has records of {len(ids)} different models, weights or data revisions"
            for task, ids in run.cells.items()
            if len(ids) > 1
        ]
    for number, first in enumerate(runs):
        for second in runs[number + 1 :]:
            problems += _differences(first, second)
    problems = list(dict.fromkeys(problems))
    if problems and not mixed:
        raise InvalidValueError(
            "these runs do not compare in one report: " + "; ".join(problems) + ". "
            "Make one report each, or add --mixed to report them together, marked"
        )
    return problems


def _differences(first: Run, second: Run) -> list[str]:
    who = f"{first.name} ({first.folder.name}) and {second.name} ({second.folder.name})"
    if first.model.get("name") != second.model.get("name"):
        backends = first.model.get("attention"), second.model.get("attention")
        return (
            [f"{who}: model.attention is {backends[0]} and {backends[1]}"] if len(set(backends)) > 1 else []
        )
    settings = [
        f"{who}: model.{name} is {first.model.get(name)} and {second.model.get(name)}"
        for name in (*MODEL_FIELDS, *LATER_FIELDS)
        if first.model.get(name) != second.model.get(name)
    ]
    if settings:
        return settings
    revisions = [
        f"{who}: data of {task} are {first.data[task]} and {second.data[task]}"
        for task in first.data
        if task in second.data and first.data[task] != second.data[task]
    ]
    if revisions:
        return revisions
    shared = [
        task for task in first.cells if task in second.cells and first.cells[task] != second.cells[task]
    ]
    if not shared:
        return []
    if first.experiment.get("seed") != second.experiment.get("seed"):
        return [f"{who}: seed is {first.experiment.get('seed')} and {second.experiment.get('seed')}"]
    return [f"{who}: weights or data revision differ for {', '.join(shared)}"]


def _written(run: Path) -> int:
    """When the newest of its records was written, in nanoseconds."""
    return max(path.stat().st_mtime_ns for path in folder.recorded(run))


def _cells(records: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    found = records[records["cell"] != ""].groupby("task", sort=False)["cell"].unique()
    return {str(task): tuple(sorted(map(str, ids))) for task, ids in found.items()}


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, up to the first part that is none.

    >>> _release("0.3.0.dev1") < _release("0.10.0")
    True
    """
    numbers = []
    for part in version.split(".")[:3]:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)

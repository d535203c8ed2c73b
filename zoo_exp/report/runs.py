"""Run folders as a report reads them: found, checked against each other, and computed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_exp import __version__
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.report.published import beside
from zoo_exp.runs import journal
from zoo_exp.runs.records import RECORDS_FILE, read_records, read_timings
from zoo_exp.runs.unfinished import unfinished
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.results import Results, compute

MANIFEST = "experiment.json"
MODEL_FIELDS = ("path", "revision", "dtype", "attention", "weights", "layers")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: where it lies.
        experiment: the resolved configuration that its manifest holds.
        provenance: versions and machine.
        data: task -> which data set and revision it read; empty where an older run does not say.
        records: from `records.read_records`.
        cells: task -> cell ids of its records (hashes of model, weights, data source and seed).
        notes: what a reader of the report must know about the choice of this folder.
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

    def results(self, draws: int = DRAWS) -> Results:
        """Tables and intervals from the records, with the tasks of this package."""
        from zoo_exp import tasks

        known = {name: tasks.get(name) for name in self.experiment["tasks"]}
        results = compute(
            self.name,
            self.records,
            read_timings(self.folder),
            list(known),
            self.experiment["arms"],
            lambda name, rows: known[name].aggregate(rows),
            lambda name: known[name].main_metric,
            scoring=lambda name: known[name],
            draws=draws,
        )
        joined, left_out = beside(results.frame, self.experiment)
        notes = [*self.notes, *results.notes, *unfinished(self.folder, self.records, self.cells), *left_out]
        return replace(results, provenance=self.provenance, notes=notes, published=joined)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders that the paths name: run folders themselves, or folders above, which stand for what is newest.

    Raises:
        MissingFileError: a path that does not exist, or holds no run.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise MissingFileError(f"no folder {path}: give a run folder (runs/NAME/ID), or runs/NAME")
        if (path / MANIFEST).is_file():
            found.append(path)
            continue
        inside = [manifest.parent for manifest in path.glob(f"*/{MANIFEST}")]
        nested = [manifest.parent for manifest in path.glob(f"*/*/{MANIFEST}")]
        by_experiment: dict[Path, list[Path]] = {}
        for folder in inside or nested:
            if _recorded(folder):
                by_experiment.setdefault(folder.parent, []).append(folder)
        if not by_experiment:
            raise MissingFileError(
                f"{path} holds no run with records: python -m zoo_exp run makes one (runs/NAME/ID)"
            )
        for _, folders in sorted(by_experiment.items()):
            found.append(
                max(folders, key=lambda folder: max(p.stat().st_mtime_ns for p in _recorded(folder)))
            )
    return list(dict.fromkeys(found))


def passed_over(found: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """What a user who named a folder above runs should know: which of several it stands for.

    Args:
        found: from `find_runs`.
        paths: what it was given.
    """
    told = []
    for folder in found:
        siblings = [
            other for other in folder.parent.glob("*") if (other / MANIFEST).is_file() and _recorded(other)
        ]
        if len(siblings) > 1 and folder not in map(Path, paths):
            told.append(
                f"{folder.parent}: newest of {len(siblings)} runs, {folder.name}; name another one to see it"
            )
    return told


def load_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        MissingFileError: no manifest or no records, or a damaged file.
        InvalidValueError: the folder was written by a newer version of the package.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        experiment, provenance = dict(manifest["experiment"]), dict(manifest.get("provenance") or {})
        data = dict(manifest.get("data") or {})
        if manifest.get("device"):
            provenance["device"] = manifest["device"]
        missing = [key for key in ("name", "model", "tasks", "arms") if key not in experiment]
    except OSError as error:
        raise MissingFileError(
            f"{folder} is no run folder: cannot read {MANIFEST} ({error.strerror}); give runs/NAME/ID"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MissingFileError(
            f"{path} is damaged ({error!r}): run the experiment again to rewrite it"
        ) from error
    if missing:
        raise MissingFileError(f"{path} lacks {', '.join(missing)}: run the experiment again to rewrite it")
    written = str(provenance.get("zoo-exp") or __version__)
    if _release(written) > _release(__version__):
        raise InvalidValueError(
            f"{folder} was written by zoo_exp {written}, this is {__version__}: "
            "a newer run may hold what this version does not understand; install the newer version"
        )
    records = read_records(folder)
    return Run(folder, experiment, provenance, data, records, _cells(records))


def check_together(runs: Sequence[Run], mixed: bool = False) -> list[str]:
    """Refuse runs whose numbers must not stand in one report, or say so where they were asked for.

    Attention backends must agree between all runs, as times do not compare otherwise; between runs of one model
    also its other settings, and per task the data's revision and what the cell's hash covers (weights, seed).

    Args:
        runs: all runs of the report.
        mixed: report them all the same.

    Returns:
        What a reader must be told (with `mixed`).

    Raises:
        InvalidValueError: runs do not go together.
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
            "these runs do not go together in one report: " + "; ".join(problems) + ". "
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
        for name in MODEL_FIELDS
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


def _recorded(folder: Path) -> list[Path]:
    """Files with records: the merged one, and the journals of a run that was cut off."""
    merged = folder / RECORDS_FILE
    return [*([merged] if merged.is_file() else []), *journal.journals(folder, "records")]


def _cells(records: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    if "cell" not in records:
        return {}
    found = records.dropna(subset=["cell"]).groupby("task", sort=False)["cell"].unique()
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

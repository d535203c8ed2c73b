"""Find and load run folders, and check that several runs can be compared."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exp import __version__
from zoo_exp.config.identity import LATER_FIELDS, MODEL_FIELDS
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import log, unfinished_line
from zoo_exp.runs import anew, cells, folder, manifest
from zoo_exp.runs.reading import read_records, record_files
from zoo_exp.runs.run_answers import Answers, read_answers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: its path.
        experiment: the resolved configuration from its manifest.
        provenance: versions and machine.
        data: task -> data set and revision; empty for older runs that did not record it.
        answers: its records, from `run_answers.read_answers`.
        cells: task -> cell ids of its records (hashes of model, weights, data source and seed).
        notes: one sentence for each unfinished task.
    """

    folder: Path
    experiment: dict[str, Any]
    provenance: dict[str, Any]
    data: dict[str, Any]
    answers: Answers
    cells: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @cached_property
    def records(self) -> "pd.DataFrame":
        """Its records as a data frame, from `reading.read_records`: about a kilobyte each."""
        return read_records(self.folder, {str(arm["arm_id"]) for arm in self.answers.arms})

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment["name"])

    @property
    def model(self) -> dict[str, Any]:
        """The model's configuration; `name` is the name of its configuration file."""
        return dict(self.experiment["model"])


def find_runs(paths: Sequence[Path], every: bool = False) -> list[Path]:
    """Find run folders: each path is a run folder, or a folder above, which selects the newest run in it.

    Args:
        paths: folders.
        every: of a folder above, select every run of each experiment, oldest first, without those that
            `fresh=true` has set aside.

    Raises:
        MissingFileError: a path does not exist, or contains no run.
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
                f"{path} contains no run with records: create one with python -m zoo_exp run (runs/NAME/ID)"
            )
        for _, runs in sorted(by_experiment.items()):
            if every:
                found += sorted((run for run in runs if not anew.is_aside(run)), key=_written)
            else:
                found.append(max(runs, key=_written))
    return list(dict.fromkeys(found))


def passed_over(found: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Notes on folders with several runs: which of them was selected.

    Args:
        found: result of `find_runs`.
        paths: its argument.
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
                f"{run.parent}: using {run.name}, the newest of {len(siblings)} runs; give its folder to use another"
            )
    return told


def load_run(path: Path, arms: Collection[str] = (), texts: bool = False) -> Run:
    """Load a run folder.

    Args:
        path: the run folder.
        arms: ids of the arms whose records are read; empty reads all.
        texts: see `run_answers.read_answers`.

    Raises:
        MissingFileError: the manifest or the records are missing, or a file cannot be read.
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
            "newer runs may contain data that this version cannot read; install the newer version"
        )
    for file in record_files(path):
        if unfinished_line(file):
            log.warning(
                f"1 record of {file} is unfinished (the file ends within its line) and is left out: rerun the same "
                "command to answer that question again"
            )
    answers = read_answers(path, set(arms) or {arm["arm_id"] for arm in experiment["arms"]}, texts=texts)
    ids = {name: own for name, task in answers.tasks.items() if (own := task.cell_ids)}
    notes = tuple(cells.unfinished(path, answers, ids))
    return Run(path, experiment, provenance, content["data"], answers, ids, notes)


def check_together(runs: Sequence[Run], mixed: bool = False) -> list[str]:
    """Check that the numbers of several runs can be compared.

    All runs must use the same attention backend, otherwise their times are not comparable. Runs of the same model must
    also agree in its other settings, and for each task in the data revision and the content of the cell's hash
    (weights, seed).

    Args:
        runs: all runs of the report.
        mixed: return the differences as warnings instead of raising an error.

    Returns:
        Warnings (with `mixed`).

    Raises:
        InvalidValueError: the runs cannot be compared.
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
            "these runs cannot be compared in one report: " + "; ".join(problems) + ". "
            "Create one report for each, or add --mixed to include them all and mark the differences"
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
    """Modification time of its newest records, in nanoseconds."""
    return max(path.stat().st_mtime_ns for path in folder.recorded(run))


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _release("0.3.0.dev1") < _release("0.10.0")
    True
    """
    numbers = []
    for part in version.split(".")[:3]:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)

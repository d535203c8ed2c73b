"""Compare arms of one run or of two runs, found by the labels that tables show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_exp import sharing
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.runs import manifest
from zoo_exp.runs.load import Run, check_together, find_runs, load_run
from zoo_exp.runs.titles import columns
from zoo_exp.statistics.arm_rows import ArmRow, group
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.paired import Paired, Side, compare_arms
from zoo_exp.tasks import get as get_task

REFERENCE = "full"


@dataclass(frozen=True)
class Place:
    """An arm and the run that it comes from."""

    run: Path
    row: ArmRow
    rows: list[ArmRow]


@dataclass(frozen=True)
class Comparison:
    """What `compare` shows.

    Attributes:
        pairs: one comparison per pair of arms.
        places: the two arms of each pair, and the runs that they come from.
        runs: the runs that they come from, in the order in which they were given.
        notes: differences between the runs, such as their models.
    """

    pairs: list[Paired]
    places: list[tuple[Place, Place]]
    runs: list[Run]
    notes: list[str]


def compare_runs(
    paths: Sequence[str | Path], arms: Sequence[str] = (), draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compare arms of runs, question by question.

    Args:
        paths: one or two run folders, or folders above them. A folder above stands for the newest of its runs that has
            the arm, so that two points of a sweep can be compared.
        arms: labels as tables show them. For one run: an arm and those it is compared with; a single one is compared
            with every other arm of its budget. For two runs: an arm of each, or one that both have; none compares every
            arm that both have.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        MissingFileError: a folder that is no run, or has no records.
        UnknownNameError: an arm that a run does not have.
        InvalidValueError: too many runs or arms, or runs that share no arms or no questions.
    """
    if not 1 <= len(paths) <= 2:
        raise InvalidValueError(f"compare takes one run or two, got {len(paths)}: for more, use report")
    found = [_Candidates.of(Path(path)) for path in paths]
    chosen = _of_one_run(found[0], arms) if len(found) == 1 else _of_two_runs(found[0], found[1], arms)
    needed: dict[Path, set[str]] = {}
    for place in (place for pair in chosen for place in pair):
        fulls = [row for row in place.rows if row.selector == REFERENCE]
        needed.setdefault(place.run, set()).update(
            member for row in (place.row, *fulls) for member in row.members
        )
    loaded = {run: load_run(run, ids, texts=True) for run, ids in needed.items()}
    runs = list(loaded.values())
    names = dict(zip(loaded, columns(runs), strict=True)) if len(runs) > 1 else {}
    sides = [
        (
            _side(one, loaded[one.run], names.get(one.run)),
            _side(other, loaded[other.run], names.get(other.run)),
        )
        for one, other in chosen
    ]
    tasks = [
        get_task(name) for name in dict.fromkeys(task for run in runs for task in run.experiment["tasks"])
    ]
    pairs = [compare_arms(one, other, tasks, draws, seed) for one, other in sides]
    notes = [sharing.text(note) for note in check_together(runs, mixed=True)]
    models = list(dict.fromkeys(str(run.model.get("name")) for run in runs))
    if len(models) > 1:
        notes.insert(0, f"the models differ: {' and '.join(models)}")
    notes += [note for run in runs for note in run.notes]
    return Comparison(pairs, chosen, runs, notes)


@dataclass(frozen=True)
class _Candidates:
    """The runs that a path stands for, newest first, with their arms."""

    path: Path
    runs: list[tuple[Path, list[ArmRow]]]

    @classmethod
    def of(cls, path: Path) -> "_Candidates":
        newest = find_runs([path])
        runs = [*newest, *(run for run in reversed(find_runs([path], every=True)) if run not in newest)]
        return cls(path, [(run, group(manifest.read(run)["experiment"]["arms"])) for run in runs])

    def find(self, name: str) -> Place:
        """The arm of a name in the newest run that has it."""
        for run, rows in self.runs:
            row = find_row(rows, name)
            if row is not None:
                return Place(run, row, rows)
        known = dict.fromkeys(row.row for _, rows in self.runs for row in rows)
        raise UnknownNameError(f"arm of {self.path}", name, known)


def find_row(rows: Sequence[ArmRow], name: str) -> ArmRow | None:
    """The row of a name: its label, the label of one of its seeds, or `SELECTOR @BUDGET` where only one row fits.

    Raises:
        InvalidValueError: several rows fit.
    """
    wanted = " ".join(name.split())
    for row in rows:
        if wanted in (row.row, row.label):
            return row
        if wanted in row.names and len(row.members) == len(row.names) > 1:
            member = row.members[row.names.index(wanted)]
            return replace(row, label=wanted, row=wanted, members=(member,), names=(wanted,))
    selector, _, budget = wanted.partition(" @")
    fitting = [row for row in rows if row.selector == selector and (not budget or row.budget == budget)]
    if len(fitting) > 1:
        named = ", ".join(f'"{row.row}"' for row in fitting)
        raise InvalidValueError(f"arm '{name}' fits several arms: give one of {named}")
    return fitting[0] if fitting else None


def _of_one_run(found: _Candidates, arms: Sequence[str]) -> list[tuple[Place, Place]]:
    if not arms:
        rows = found.runs[0][1]
        known = ", ".join(f'"{row.row}"' for row in rows)
        raise InvalidValueError(
            f"compare {found.path}: add a second run, or --arms with one arm or more of {known}"
        )
    places = [found.find(name) for name in arms]
    first = places[0]
    if len(places) == 1:
        others = [row for row in first.rows if row.budget == first.row.budget and row.row != first.row.row]
        if not others:
            raise InvalidValueError(f"no other arm has the budget of '{first.row.row}': name one with --arms")
        return [(first, Place(first.run, row, first.rows)) for row in others]
    pairs = [(first, other) for other in places[1:]]
    same = [
        other.row.row
        for _, other in pairs
        if (other.run, other.row.members) == (first.run, first.row.members)
    ]
    if same:
        raise InvalidValueError(f"--arms names '{same[0]}' twice: give two different arms")
    return pairs


def _of_two_runs(first: _Candidates, second: _Candidates, arms: Sequence[str]) -> list[tuple[Place, Place]]:
    if len(arms) > 2:
        raise InvalidValueError(
            f"--arms of two runs names an arm of each, or one that both have; got {len(arms)}"
        )
    if arms:
        return [(first.find(arms[0]), second.find(arms[-1]))]
    (one, rows), (other, others) = first.runs[0], second.runs[0]
    if one == other:
        raise InvalidValueError(
            f"{first.path} and {second.path} are the same run: give another one, or --arms"
        )
    by_key = {_key(row): row for row in others}
    pairs = [
        (Place(one, row, rows), Place(other, by_key[_key(row)], others))
        for row in rows
        if _key(row) in by_key
    ]
    if not pairs:
        named = (", ".join(row.row for row in part) for part in (rows, others))
        raise InvalidValueError(
            "these runs share no arm: name one of each with --arms. Arms: {}; and {}".format(*named)
        )
    return pairs


def _key(row: ArmRow) -> Any:
    return row.selector, row.options, row.budget


def _side(place: Place, run: Run, name: str | None) -> Side:
    ids = {*place.row.members}
    full = next((row for row in place.rows if row.selector == REFERENCE), None)
    ids |= set(full.members if full is not None else ())
    label = f"{place.row.label} [{name}]" if name is not None else place.row.label
    return Side(label, place.row, run.answers.only(ids), full)

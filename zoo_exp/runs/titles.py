"""Names of runs for readers."""

from collections.abc import Sequence

from zoo_exp import sharing
from zoo_exp.runs.load import Run

UNINFORMATIVE = ("+exp=", "exp=")
"""Overrides that do not distinguish the points of an experiment."""


def titles(runs: Sequence[Run]) -> list[str]:
    """A name for readers: the experiment's; for several runs of one experiment, with the overrides or the id."""
    found = []
    for run in runs:
        others = [other for other in runs if other is not run and other.name == run.name]
        if not others:
            found.append(run.name)
            continue
        shared = set.intersection(*(set(_overrides(other)) for other in [run, *others]))
        own = [text for text in _overrides(run) if text not in shared]
        if any(set(_overrides(other)) == set(_overrides(run)) for other in others):
            own.append(run.folder.name)
        found.append(f"{run.name} ({' '.join(own) or 'as configured'})")
    return found


def columns(runs: Sequence[Run]) -> list[str]:
    """Short names of runs that stand side by side: the model where every run has another one, else what differs."""
    models = [str(run.model.get("name")) for run in runs]
    if len(set(models)) == len(models):
        return models
    names = titles(runs)
    if len({run.name for run in runs}) > 1:
        return names
    # The experiment's name is the same for all: only what stands in brackets distinguishes them.
    return [
        name.removeprefix(f"{run.name} (").removesuffix(")") for name, run in zip(names, runs, strict=True)
    ]


def _overrides(run: Run) -> list[str]:
    return [text for text in sharing.overrides(run.experiment) if not text.startswith(UNINFORMATIVE)]

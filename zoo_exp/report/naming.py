"""What runs are called where several stand in one report."""

import re
from collections.abc import Sequence

from zoo_exp.runs.load import Run

UNTOLD = ("out=", "logger=", "+exp=", "exp=")
"""Overrides that say nothing about the experiment's points."""


def slugs(runs: Sequence[Run]) -> list[str]:
    """A short unique name for each run, safe in file names and anchors: its own, with the model, or with its id."""
    own = [_safe(run.name) for run in runs]
    models = [f"{name}-{_safe(str(run.model.get('name')))}" for name, run in zip(own, runs, strict=True)]
    folders = [f"{model}-{_safe(run.folder.name)}" for model, run in zip(models, runs, strict=True)]
    found: list[str] = []
    for number, options in enumerate(zip(own, models, folders, strict=True)):
        counts = (own.count(options[0]), models.count(options[1]), 1)
        name = next(option for option, count in zip(options, counts, strict=True) if count == 1)
        found.append(name if name not in found else f"{name}-{number}")
    return found


def titles(runs: Sequence[Run]) -> list[str]:
    """A name for readers: the experiment's; of several runs of one, with what was typed differently, or the id."""
    found = []
    for run in runs:
        others = [other for other in runs if other is not run and other.name == run.name]
        if not others:
            found.append(run.name)
            continue
        shared = set.intersection(*(set(_typed(other)) for other in [run, *others]))
        told = [text for text in _typed(run) if text not in shared]
        if any(set(_typed(other)) == set(_typed(run)) for other in others):
            told.append(run.folder.name)
        found.append(f"{run.name} ({' '.join(told) or 'as configured'})")
    return found


def _typed(run: Run) -> list[str]:
    overrides = [str(text) for text in run.experiment.get("overrides") or []]
    return [text for text in overrides if not text.startswith(UNTOLD)]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "run"

"""The tables of a loaded run."""

from dataclasses import replace

from zoo_exp import sharing
from zoo_exp.report.published import beside
from zoo_exp.runs.load import Run
from zoo_exp.runs.reading import read_timings
from zoo_exp.statistics.bootstrap import DRAWS
from zoo_exp.statistics.results import Results, about, compute


def results_of(run: Run, draws: int = DRAWS, focus: str | None = None) -> Results:
    """Tables and intervals from the records of a run, with the tasks of this package.

    Args:
        run: the run.
        draws: bootstrap draws.
        focus: the arm that the report is about (see `focus.focus_rows`).

    Raises:
        UnknownNameError: the run has no arm of this name.
    """
    from zoo_exp import tasks

    known = [tasks.get(name) for name in run.experiment["tasks"]]
    timings = read_timings(run.folder)
    results = compute(
        run.name,
        run.answers,
        timings,
        known,
        run.experiment["arms"],
        draws,
        claims=run.experiment.get("claims", ()),
        limit=run.experiment.get("limit"),
    )
    if focus is not None:
        results = about(results, run.answers, focus)
    joined, left_out = beside(results.frame, run.experiment)
    notes = [sharing.text(note, run.experiment) for note in (*results.notes, *run.notes, *left_out)]
    return replace(results, provenance=run.provenance, notes=notes, published=joined)

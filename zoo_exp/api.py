"""Experiments in Python: run them, load their folders, compare their arms (docs/python.md).

import zoo_exp

results = zoo_exp.run(task="embedded_gqa", selector=["full", "zoo"], budget=16, limit=20, logger="none")
results.table           # what the terminal shows, as a data frame
results.records         # one row per question and arm
results.masks("12")     # the kept tokens of a question, as an image
zoo_exp.compare(results, arms=["zoo multiply @16", "full"])
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exp._cli.run import check_sources, check_writable
from zoo_exp.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from zoo_exp.report.mask_items import MaskItem
    from zoo_exp.runs.load import Run
    from zoo_exp.statistics.compare_runs import Comparison
    from zoo_exp.statistics.results import Results as Statistics

__all__ = ["Results", "compare", "load_run", "overrides", "run"]

NAMED = 20
"""Questions that an error names."""


@dataclass(frozen=True)
class Results:
    """A run folder: its records, its tables and its masks. In a notebook it shows its table.

    Attributes:
        folder: the run folder (`runs/NAME/ID`); it holds everything that this object shows.
    """

    folder: Path

    @cached_property
    def loaded(self) -> "Run":
        """Manifest and records (see `zoo_exp.runs.load.Run`)."""
        from zoo_exp.runs.load import load_run as load

        return load(self.folder)

    @cached_property
    def statistics(self) -> "Statistics":
        """Metrics with intervals, comparisons and notes (see `zoo_exp.statistics.results.Results`)."""
        from zoo_exp.report.runs import results_of

        return results_of(self.loaded)

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self.loaded.experiment

    @property
    def records(self) -> "pd.DataFrame":
        """One row per question and arm: task, arm, sample_id, question, reference, response, score, kept_tokens ..."""
        return self.loaded.records.copy()

    @property
    def results(self) -> "pd.DataFrame":
        """One row per arm and task, and one per arm for the average.

        Columns: those of `zoo_exp.statistics.results.Results.frame` and of results.csv.
        """
        return self.statistics.frame.copy()

    @property
    def table(self) -> "pd.DataFrame":
        """Arms by tasks: the main metric in the task's own unit, and `average`, the mean score in percent."""
        frame, scales = self.statistics.frame, self.statistics.scales
        shown = frame.assign(value=frame["value"] * frame["task"].map(scales))
        wide = shown.pivot(index="arm", columns="task", values="value")
        return wide.loc[frame["arm"].unique(), frame["task"].unique()].rename_axis(columns=None)

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know: few questions, missing answers, missing intervals."""
        return list(self.statistics.notes)

    def markdown(self) -> str:
        """Every table as Markdown, as in results.md."""
        from zoo_exp.report.run_document import markdown_document

        return markdown_document(self.statistics)

    def latex(self) -> str:
        """Every table as LaTeX, for the package booktabs."""
        from zoo_exp.report.run_document import latex_document

        return latex_document(self.statistics, str(self.loaded.model.get("name", "")))

    def masks(self, sample: str | int, task: str | None = None, arms: Sequence[str] = ()) -> "Image.Image":
        """The kept tokens of one question under every arm, as an image.

        Args:
            sample: id of the question, as in `records`.
            task: its task; may be left out where only one task has a question of that id.
            arms: labels of the arms to draw; empty for all.

        Raises:
            UnknownNameError: no such question or arm, or a question without masks.
            InvalidValueError: several tasks have a question of that id.
        """
        from PIL import Image

        from zoo_exp.report.gallery import draw_gallery

        item = self._mask_item(str(sample), task, arms)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "masks.png"
            draw_gallery([item], path)
            image = Image.open(path)
            image.load()
        return image

    def _mask_item(self, sample: str, task: str | None, arms: Sequence[str]) -> "MaskItem":
        """The masks of one question, with the arms in the given order; see `masks`."""
        from zoo_exp.report.mask_items import read_masks

        asked = self.loaded.answers.tasks
        found = [name for name, own in asked.items() if sample in own.sample_ids]
        if task is not None and task not in self.experiment["tasks"]:
            raise UnknownNameError("task of this run", task, self.experiment["tasks"])
        if not found or (task is not None and task not in found):
            ids = dict.fromkeys(known for own in asked.values() for known in own.sample_ids[:NAMED])
            raise UnknownNameError("question", sample, list(ids)[:NAMED])
        if task is None and len(found) > 1:
            raise InvalidValueError(
                f"question {sample} is in the tasks {', '.join(found)}: give one, task={found[0]!r}"
            )
        task = task or found[0]
        items = {item.sample_id: item for item in read_masks(self.folder, [task])}
        if sample not in items:
            raise UnknownNameError(f"question of {task} with masks", sample, list(items)[:NAMED])
        item = items[sample]
        by_label = {arm.arm: arm for arm in item.arms}
        for label in arms:
            if label not in by_label:
                raise UnknownNameError("arm with masks", label, by_label)
        return replace(item, arms=tuple(by_label[label] for label in arms) or item.arms)

    def __repr__(self) -> str:
        """The folder, and the table where there are records."""
        return f"Results({str(self.folder)!r})\n{self.table.round(1).to_string()}"

    def _repr_html_(self) -> str:
        """The table of the report, for notebooks."""
        from zoo_exp.report.renderers import html
        from zoo_exp.report.tables import main_table

        return str(html(main_table(self.statistics)))


def run(*texts: str, config_dirs: Sequence[str | Path] = (), quiet: bool = False, **keys: Any) -> Results:
    """Run an experiment, or resume it: what `python -m zoo_exp run` does.

    Args:
        *texts: overrides as on the command line, such as `"+exp=ablation_fusion"` or `"selector.seeds=3"`.
        config_dirs: your own configuration folders (`--config-dir`).
        quiet: print nothing but errors and warnings.
        **keys: overrides by key, with Python values: `budget=[48, 16]`, `task="my.jsonl"`, `limit=None`; keys with a
            dot as `**{"trainer.devices": 2}`.

    Returns:
        The results; nothing is asked again if everything is recorded.

    Raises:
        InvalidValueError: a value that is not allowed, or a run that a signal stopped (call it again to resume).
        ZooExpError: any other error that the user can correct; the message says what to change.
    """
    from zoo_exp import pipeline
    from zoo_exp.config.sweep import points
    from zoo_exp.console import plain_console

    (point,) = points([*texts, *overrides(**keys)], config_dirs)
    experiment = point.experiment
    check_writable(experiment.out)
    check_sources(experiment)
    if pipeline.run(experiment, plain_console(quiet=True) if quiet else None):
        raise InvalidValueError(
            f"the run was stopped by a signal; call it again to resume ({experiment.run_dir})"
        )
    return Results(experiment.run_dir)


def overrides(**keys: Any) -> list[str]:
    """Overrides as on the command line, from Python values.

    Args:
        **keys: values by key; `exp` becomes `+exp=`.

    >>> overrides(exp="sanity", selector=["full", "zoo"], budget="<=64", limit=None)
    ['+exp=sanity', 'selector=[full,zoo]', "budget='<=64'", 'limit=null']
    """
    from zoo_exp.config.sweep import as_text

    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}
    return [f"{'+' if key == 'exp' else ''}{key}={as_text(value)}" for key, value in plain.items()]


def load_run(folder: str | Path) -> Results:
    """The results of a run folder (`runs/NAME/ID`), or of the newest run below a folder (`runs/NAME`).

    Args:
        folder: the folder.

    Returns:
        The results; their tables are computed when they are asked for.

    Raises:
        MissingFileError: no such folder, or no run with records in it.
        InvalidValueError: the folder has runs of several experiments, or was written by a newer version.
    """
    from zoo_exp.runs.load import find_runs

    found = find_runs([Path(folder)])
    if len(found) > 1:
        names = ", ".join(str(path) for path in found[:3])
        raise InvalidValueError(f"{folder} has runs of {len(found)} experiments: give one, such as {names}")
    results = Results(found[0])
    results.loaded  # noqa: B018 - a damaged folder is refused here
    return results


def compare(
    first: "Results | str | Path",
    second: "Results | str | Path | None" = None,
    *,
    arms: Sequence[str] = (),
    draws: int | None = None,
) -> "Comparison":
    """Compare arms question by question, as `python -m zoo_exp compare` does.

    Args:
        first: results or a run folder.
        second: another one, for the same arms on two models or with two settings; None compares arms of `first`.
        arms: labels as in the tables. One run: an arm and those it is compared with. Two runs: an arm of each.
        draws: bootstrap draws; None for the default.

    Returns:
        Comparisons of pairs of arms: `pairs[0].frame` has one row per task with difference, paired interval and exact
        test; `pairs[0].changed` the questions that changed.

    Raises:
        UnknownNameError: an arm that a run does not have.
        InvalidValueError: runs that share no questions.
    """
    from zoo_exp.statistics.bootstrap import DRAWS
    from zoo_exp.statistics.compare_runs import compare_runs

    paths = [
        one.folder if isinstance(one, Results) else Path(one) for one in (first, second) if one is not None
    ]
    return compare_runs(paths, arms, draws or DRAWS)

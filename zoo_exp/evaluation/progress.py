"""One progress bar over all cells of a run, with the running score of `full` and of the current arm.

Where there is no terminal, as in the log of a job, lines at long intervals take its place.
"""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from zoo_exp.config.experiment import Arm
from zoo_exp.evaluation.module import PrunedVLM

SHARE = 0.02
"""Largest share of the run time that is spent on computing running scores."""

FIRST_LINE, NEXT_LINE = 15.0, 300.0
"""Without a terminal: seconds after which the first answers are reported, and between two reports."""


def remaining(done: float, total: float | None, seconds: float) -> timedelta | None:
    """Time that the other answers will take at the mean speed so far; None before the first answer.

    A mean over the whole run is known from the first arm of the first batch on, however long a batch takes.
    """
    if not done or total is None:
        return None
    return timedelta(seconds=round(seconds * max(0.0, total - done) / done))


class _Remaining(ProgressColumn):
    """`remaining` as a column."""

    def render(self, task: Task) -> Text:
        """The text of the column."""
        found = remaining(task.completed, task.total, task.elapsed or 0.0)
        return Text("-:--:--" if found is None else str(found), style="progress.remaining")


class RunProgress:
    """Counts answers (questions x arms) as arms answer batches.

    Args:
        console: where the bar is drawn.
        module: the running module.
        ranks: number of processes; each is assumed to answer as fast as this one.
    """

    def __init__(self, console: Console, module: PrunedVLM, ranks: int = 1) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),  # labels are data
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("answers"),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Remaining(),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.bar = self.progress.add_task("", total=None)
        self.module, self.ranks = module, ranks
        self._console = console
        self._visible, self._due = console.is_terminal and not console.quiet, 0.0
        self._started = self._report_at = time.monotonic()
        module.after_arm = self.after_arm

    def expect(self, answers: int) -> None:
        """Set the number of answers that the run still needs."""
        self.progress.update(self.bar, total=answers)

    def __enter__(self) -> "RunProgress":
        self.progress.start()
        self._started = time.monotonic()
        self._report_at = self._started + FIRST_LINE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def after_arm(self, arm: Arm, answers: int) -> None:
        """Advance the bar by the answers of one arm on all ranks."""
        self.progress.update(self.bar, advance=answers * self.ranks)
        started = time.monotonic()
        if self._visible and started >= self._due:
            self.progress.update(self.bar, description=self.describe(arm))
            finished = time.monotonic()
            self._due = finished + (finished - started) / SHARE
        elif not self._visible and started >= self._report_at:
            self._report_at = started + NEXT_LINE
            self._report(started - self._started)

    def _report(self, seconds: float) -> None:
        """Print one line in the place of the bar."""
        bar = self.progress.tasks[0]
        left = remaining(bar.completed, bar.total, seconds)
        self._console.print(
            f"{bar.completed:.0f} of {bar.total or 0:.0f} answers in {timedelta(seconds=round(seconds))}, about {left} "
            "left",
            style="dim",
            soft_wrap=True,
            highlight=False,
        )

    def describe(self, arm: Arm) -> str:
        """The task, and the running scores of `full` and of `arm`."""
        task, cell = self.module.task, self.module.cell
        shown = [one for one in cell.arms if one.selector == "full" or one.id == arm.id]
        scores = []
        for one in () if task.submission_only else shown:
            value = self.module.running_scores.value(one)
            if value is not None:
                scores.append(f"{one.label} {value * task.scale.factor:.1f}")
        return "  ".join([task.name, *scores])

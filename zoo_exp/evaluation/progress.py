"""One progress bar over all cells of a run, with the running score of `full` and of the current arm."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from zoo_exp.config.experiment import Arm
from zoo_exp.evaluation.module import PrunedVLM

SHARE = 0.02
"""Largest share of the run time that is spent on computing running scores."""


class RunProgress:
    """Counts answers (questions x arms) as arms answer batches; silent without a terminal.

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
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.bar = self.progress.add_task("", total=None)
        self.module, self.ranks = module, ranks
        self._visible, self._due = console.is_terminal and not console.quiet, 0.0
        module.after_arm = self.after_arm

    def expect(self, answers: int) -> None:
        """Set the number of answers that the run still needs."""
        self.progress.update(self.bar, total=answers)

    def __enter__(self) -> "RunProgress":
        self.progress.start()
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

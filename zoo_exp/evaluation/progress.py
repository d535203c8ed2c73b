"""One progress bar over all cells of a run."""

from types import TracebackType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunProgress(Callback):
    """Counts answers (questions x arms) as batches end; silent where there is no terminal to draw on.

    Args:
        console: where it is drawn.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("answers"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.bar = self.progress.add_task("", total=None)

    def expect(self, answers: int) -> None:
        """Say how many answers the whole run still needs."""
        self.progress.update(self.bar, total=answers)

    def __enter__(self) -> "RunProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Name the task, and move on by the answers of all ranks' batches."""
        answers = pl_module.last_answers * trainer.world_size
        self.progress.update(self.bar, description=pl_module.task.name, advance=answers)

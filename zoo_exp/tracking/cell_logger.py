"""One W&B run per cell, open while the cell is answered.

While it is open it receives the running metrics of the LightningModule; when the cell is complete it receives the
results that the report would show, computed from the records. No failure of W&B ends an evaluation.
"""

import hashlib
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from zoo_exp.config.experiment import Cell, Experiment
from zoo_exp.errors import ZooExpError
from zoo_exp.report.mask_items import choose, read_masks
from zoo_exp.report.run_document import plain_rows
from zoo_exp.runs import cells
from zoo_exp.runs.reading import read_timings
from zoo_exp.runs.run_answers import Answers, read_answers
from zoo_exp.statistics.arm_rows import group
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import compute
from zoo_exp.tasks import get as get_task
from zoo_exp.tracking.content import key, scalars, studied, table
from zoo_exp.tracking.mode import Mode, resolve_mode
from zoo_exp.tracking.session import Place, Session, describe, read_marker, short

EVERY = 30.0
"""Seconds between two rows of a cell that is being answered."""
SHARE = 0.02
"""Largest share of the run time that is spent on such rows."""
IMAGES = 4
"""Questions of a cell whose kept tokens are shown."""
STEP = "answers"


class CellRun:
    """The W&B run of one cell.

    Args:
        experiment: the experiment.
        cell: the cell.
        place: where runs go.
        answers: answers that were recorded before.

    Attributes:
        left_out: questions whose images did not fit into the budget.
    """

    def __init__(self, experiment: Experiment, cell: Cell, place: Place, answers: int = 0) -> None:
        self.left_out, self._shares = (
            0,
            len(experiment.tasks) + 1,
        )  # one is for the run of the whole experiment
        self.cell, self.folder, self.answers = cell, place.run_dir, answers
        self.arms = group([arm.as_dict() for arm in cell.arms])
        job = f"{cell.task}/{studied([arm.selector for arm in cell.arms])}"
        config = experiment.as_dict() | {"task": cell.task}
        self.session = Session(place, f"cell-{cell.id}", f"{experiment.name}/{cell.task}", job, config)
        self.session.run.define_metric("*", step_metric=STEP)
        self._due, self._logged = 0.0, -1
        self._running: Callable[[], dict[str, float]] = dict

    def grow(self, answers: int, running: Callable[[], dict[str, float]], every: float) -> None:
        """Log the running metrics, unless the last row is younger than `every` seconds.

        Args:
            answers: recorded answers so far.
            running: computes arm label -> main metric so far; called for logged rows only, because it takes longer the
                more answers there are.
            every: seconds; 0 logs after every batch.
        """
        self.answers, self._running = answers, running
        started = time.monotonic()
        if started >= self._due:
            self._log_running()
            finished = time.monotonic()
            self._due = finished + max(every, (finished - started) / SHARE if every else 0.0)

    def close(self, complete: bool) -> None:
        """Close the run; a complete cell is logged in full first."""
        if not complete:
            if self._logged != self.answers:
                self._log_running()
            self.session.finish()
            return
        import wandb

        answers = cell_answers(self.folder, self.cell)
        row: dict[str, Any] = {STEP: len(answers)}
        extras: dict[str, Any] = {}
        with suppress(ZooExpError):  # answers that only a server can score have no results
            arms, task = [arm.as_dict() for arm in self.cell.arms], get_task(self.cell.task)
            results = compute(task.name, answers, read_timings(self.folder), [task], arms)
            rows = plain_rows(results.frame)
            row |= scalars(rows)
            extras["results"] = table([one for one in rows if one["task"] != AVERAGE], wandb.Table)
        items = read_masks(self.folder, [self.cell.task])
        shown = choose(items, [arm.names[0] for arm in self.arms], [self.cell.task], each=IMAGES)
        try:
            room = self.session.place.room(self._shares)
            self.left_out = self.session.log_images(row | extras, shown, room)
        except Exception:
            # W&B contacts the server while it makes tables and images, but not for numbers.
            self.session.log(row)
        self.session.finish(digest_of(answers))

    def _log_running(self) -> None:
        running = self._running()
        values = {
            key(self.cell.task, arm.label): fmean(running[name] for name in arm.names)
            for arm in self.arms
            if all(name in running for name in arm.names)
        }
        if self.answers:
            self.session.log({STEP: self.answers, **values})
            self._logged = self.answers


class CellLogger(Callback):
    """Keeps the W&B runs of an experiment's cells during Lightning's test loop, on rank 0 only.

    Args:
        experiment: the experiment.
        echo: prints the one line about a failure of W&B.
        tasks: the cells of this process; None means all.
        every: seconds between two rows of a cell.

    Raises:
        UnknownNameError: unknown W&B mode.
    """

    def __init__(
        self,
        experiment: Experiment,
        echo: Callable[[str], None],
        tasks: Collection[str] | None = None,
        every: float = EVERY,
    ) -> None:
        self._experiment, self._echo, self._every = experiment, echo, every
        self._cells = [cell for cell in experiment.cells() if tasks is None or cell.task in tasks]
        logger = experiment.logger
        mode = resolve_mode(logger.mode) if logger.name == "wandb" else Mode("disabled", "")
        folder = Path(experiment.run_dir).resolve()
        self._place = Place(
            folder,
            mode,
            logger.project,
            logger.entity,
            experiment.name,
            tuple(logger.tags),
            logger.media_mb,
        )
        self._on = mode.name != "disabled"
        self._run: CellRun | None = None
        self._expected = self._earlier = self._left_out = 0

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Log the running metrics of the current cell; close the cell before it."""
        if trainer.is_global_zero and self._on and pl_module.work is not None:
            self._guarded(lambda: self._follow(pl_module, trainer.world_size))

    def close(self) -> None:
        """Close the open run, and log cells that were complete before this process started."""
        if not self._on:
            return
        online = self._place.mode.online
        self._guarded(self._close)
        if online and not self._place.mode.online:  # the server has just failed: write complete cells offline
            self._guarded(self._close)
        if self._left_out:
            self._echo(self._place.left_out(self._left_out))

    def _follow(self, module: Any, ranks: int) -> None:
        work = module.work
        if self._run is None or self._run.cell.id != work.cell.id:
            if self._run is not None and self._run.answers >= self._expected:
                self._finish(self._run)
            self._expected, self._earlier = work.total, work.total - work.answers
            self._run = self._opened(work.cell, self._earlier)
        # Every rank answers the same share, up to one batch.
        answers = min(work.total, self._earlier + module.recorded_in_cell * ranks)
        # At the end the module may be in another cell already, whose scores are not those of this one.
        self._run.grow(answers, lambda: module.running if module.work is work else {}, self._every)

    def _opened(self, cell: Cell, answers: int = 0) -> CellRun:
        run = CellRun(self._experiment, cell, self._place, answers)
        if self._place.mode.online and not run.session.place.mode.online:
            self._go_offline(run.session.place.mode)
        return run

    def _close(self) -> None:
        run, self._run = self._run, None
        for state in cells.states(self._experiment.run_dir, self._cells):
            if run is not None and run.cell.id == state.cell.id:
                self._finish(run, state.complete)
            elif state.complete and not self._is_logged(state.cell):
                self._finish(self._opened(state.cell))

    def _finish(self, run: CellRun, complete: bool = True) -> None:
        run.close(complete)
        self._left_out += run.left_out

    def _is_logged(self, cell: Cell) -> bool:
        digest = read_marker(self._place.run_dir, f"cell-{cell.id}").digest
        return bool(digest) and digest == digest_of(cell_answers(self._place.run_dir, cell))

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do W&B work; after a failure online continue offline, after a failure offline stop logging."""
        try:
            work()
        except Exception as error:  # no failure of W&B may end an evaluation
            self._run = None
            if self._place.mode.online:
                self._go_offline(Mode("offline", f"online failed: {short(error)}"))
            else:
                self._on = False
                self._echo(
                    f"W&B: logging failed ({short(error)}) and is switched off; records are not affected"
                )

    def _go_offline(self, mode: Mode) -> None:
        """Log offline from now on, so that the other cells do not wait for the server again."""
        self._place = replace(self._place, mode=mode)
        self._echo(f"{describe(self._place)} (from now on)")


def cell_answers(folder: Path, cell: Cell) -> Answers:
    """The records of a cell.

    Raises:
        MissingFileError: the run has no records.
    """
    return read_answers(folder, {arm.id for arm in cell.arms}, cell.id)


def digest_of(answers: Answers) -> str:
    """Hash of the responses of a cell, whatever their order."""
    lines = [
        f"{identity}\0{task.sample_ids[sample]}\0{arm.store.row(place)['response']}"
        for task in answers.tasks.values()
        for identity, arm in task.arms.items()
        for sample, place in zip(arm.values("sample").tolist(), arm.values("place").tolist(), strict=True)
    ]
    digest, between = hashlib.sha256(), b""
    for line in sorted(lines):
        digest.update(between + line.encode("utf-8", "backslashreplace"))
        between = b"\n"
    return digest.hexdigest()

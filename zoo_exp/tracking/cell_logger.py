"""W&B while an experiment runs: every cell is a run of its own that grows with the answers and closes with the last.

Numbers come from the journals on disk, never from the model's loop: what W&B shows is what is recorded, of all ranks,
and a resumed run goes on where its records end. Whatever W&B does, the evaluation goes on.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from zoo_exp.config.experiment import Cell, Experiment
from zoo_exp.report.masks import choose, read_masks
from zoo_exp.runs import cells
from zoo_exp.runs.reading import MILLISECONDS
from zoo_exp.statistics.rows import group
from zoo_exp.tracking.mode import Mode, resolve_mode
from zoo_exp.tracking.session import (
    Place,
    Session,
    describe,
    family,
    pictures,
    plain_key,
    read_marker,
    short,
)
from zoo_exp.tracking.tally import STEP, Tail, Tally, digest_of, metrics_of, whole_rows

EVERY = 30.0
"""Seconds between two rows of a cell that is being answered."""
PICTURES = 4
"""Questions of a cell whose kept tokens are shown."""


class CellRun:
    """One cell's W&B run.

    Args:
        experiment: the experiment.
        cell: the cell.
        place: where runs go.
    """

    def __init__(self, experiment: Experiment, cell: Cell, place: Place) -> None:
        self.cell, self.folder = cell, place.run_dir
        self.arms = group([arm.as_dict() for arm in cell.arms])
        self.marker = f"cell-{cell.id}"
        self._tally, self._due = Tally(self.arms), 0.0
        self._tails = [Tail(self.folder, kind, cell.id) for kind in ("records", "timings")]
        job = f"{cell.task}/{family([arm.selector for arm in cell.arms])}"
        name = f"{experiment.name}/{cell.task}"
        self.session = Session(place, self.marker, name, job, experiment.as_dict() | {"task": cell.task})
        self.session.run.define_metric("*", step_metric=STEP)

    def grow(self, every: float) -> None:
        """A row of running means, unless the last one is younger than `every` seconds."""
        if time.monotonic() < self._due:
            return
        if self.answers():
            self.session.log(self._tally.scalars())
        self._due = time.monotonic() + every

    def answers(self) -> int:
        """How many are on disk."""
        for row in self._tails[0].new():
            self._tally.record(row)
        for row in self._tails[1].new():
            if row.get("task") == self.cell.task:
                self._tally.timing(row)
        return self._tally.answers

    def close(self, expected: int) -> None:
        """Log the whole cell and close its run.

        Args:
            expected: answers of a complete cell; with fewer the run stays to be gone on with.
        """
        if self.answers() < expected:
            self._due = 0.0
            self.grow(0.0)
            self.session.finish()
            return
        import wandb

        rows = whole_rows(self.folder, self.cell)
        metrics = metrics_of(self.cell.task, self.arms, rows)
        scalars = {f"{name}/{plain_key(arm)}": value for (name, arm), value in metrics.items()}
        running = self._tally.scalars()
        quantities = ["mean_score", "kept_tokens", "layer_tokens", "flops_tflop", *MILLISECONDS]
        names = list(dict.fromkeys(name for name, _ in metrics))
        data = [
            [a.label, a.selector, a.options, a.budget, *(metrics.get((n, a.label)) for n in names)]
            + [running.get(f"{quantity}/{plain_key(a.label)}") for quantity in quantities]
            for a in self.arms
        ]
        columns: list[str | int] = ["arm", "selector", "options", "budget", *names, *quantities]
        row: dict[str, Any] = {**running, **scalars, "results": wandb.Table(columns=columns, data=data)}
        items = read_masks(self.folder, [self.cell.task])
        shown = choose(items, [arm.names[0] for arm in self.arms], [self.cell.task], each=PICTURES)
        try:
            self.session.log(row | pictures(shown, wandb.Image))
        except Exception:
            # Tables and pictures ask the server while they are made; numbers do not.
            self.session.log(running | scalars)
        self.session.finish(digest_of(rows))


class CellLogger(Callback):
    """Keeps the W&B runs of an experiment's cells while Lightning goes through them; on rank 0 only.

    Args:
        experiment: the experiment.
        echo: where the one line about a W&B that fails goes.
        tasks: whose cells this process answers; None for all.
        every: seconds between two rows of a cell.

    Raises:
        UnknownNameError: a W&B mode that does not exist.
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
        self._place = Place(folder, mode, logger.project, logger.entity, experiment.name, tuple(logger.tags))
        self._on = mode.name != "disabled"
        self._open: dict[str, CellRun] = {}
        self._expected: dict[str, int] = {}

    def on_test_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Let the cell in hand grow; close those before it that every rank has answered."""
        if trainer.is_global_zero and self._on and pl_module.work is not None:
            self._guarded(lambda: self._follow(pl_module.work))

    def close(self) -> None:
        """Close what is open, and log the cells that were complete before this process came."""
        if not self._on:
            return
        online = self._place.mode.online
        self._guarded(self._close)
        if online and not self._place.mode.online:  # it went away just now: what is whole is written offline
            self._guarded(self._close)

    def _follow(self, work: Any) -> None:
        cell = work.cell
        if cell.id not in self._open:
            for name, run in list(self._open.items()):
                if run.answers() >= self._expected[name]:
                    run.close(self._expected.pop(name))
                    self._adopt(self._open.pop(name))
            self._expected[cell.id] = work.total
            self._open[cell.id] = CellRun(self._experiment, cell, self._place)
            self._adopt(self._open[cell.id])
        self._open[cell.id].grow(self._every)

    def _adopt(self, run: CellRun) -> None:
        if self._place.mode.online and not run.session.place.mode.online:
            self._go_offline(run.session.place.mode)

    def _close(self) -> None:
        states = cells.states(self._experiment.run_dir, self._cells)
        for state in states:
            run = self._open.pop(state.cell.id, None)
            if run is None and state.complete:
                before = read_marker(self._place.run_dir, f"cell-{state.cell.id}")
                if before.digest and before.digest == digest_of(whole_rows(self._place.run_dir, state.cell)):
                    continue
                run = CellRun(self._experiment, state.cell, self._place)
                self._adopt(run)
            if run is not None:
                run.close(state.expected if state.expected is not None else run.answers() + 1)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run it; where W&B fails online it goes on offline, and where it fails there it is left alone."""
        try:
            work()
        except Exception as error:  # nothing that W&B does may end an evaluation
            self._open.clear()
            if self._place.mode.online:
                self._go_offline(Mode("offline", f"online failed: {short(error)}"))
            else:
                self._on = False
                self._echo(f"W&B: failed ({short(error)}) and is left out; records are not touched")

    def _go_offline(self, mode: Mode) -> None:
        """One W&B that does not answer is enough: the other cells do not wait for it again."""
        self._place = replace(self._place, mode=mode)
        self._echo(f"{describe(self._place)} (from here on)")

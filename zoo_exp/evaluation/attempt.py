"""One attempt at the cells of an experiment: find the missing answers, generate them, check that all are there."""

import os
import signal
from collections.abc import Collection
from contextlib import suppress

import lightning
from rich.console import Console

from zoo_exp import selectors
from zoo_exp.config.experiment import Experiment, arms_text
from zoo_exp.embedded.shipped import is_shipped
from zoo_exp.errors import UnknownNameError, ZooExpError, as_ours
from zoo_exp.evaluation import launch, ranks, stop
from zoo_exp.evaluation.datamodule import CellsData
from zoo_exp.evaluation.feature_cache import open_cache
from zoo_exp.evaluation.module import PrunedVLM
from zoo_exp.evaluation.progress import RunProgress
from zoo_exp.evaluation.sample_batches import Collate
from zoo_exp.evaluation.sources import describe_model, half_on_cpu, load_configured
from zoo_exp.evaluation.work import Work, load_work, own_questions
from zoo_exp.measure import cost_estimate
from zoo_exp.models.generators import Generator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.runs import cells, manifest, resume
from zoo_exp.selectors.layer.base import LayerSelector
from zoo_exp.serving.opening import open_generator
from zoo_exp.threads import use_threads
from zoo_exp.wording import counted


class Attempt:
    """One process in one attempt at some cells of an experiment.

    Args:
        experiment: the experiment.
        trainer: the Trainer, which has the ranks.
        console: receives messages.
        tasks: run the cells of these tasks only; None for all.

    Raises:
        UnknownNameError: a task that is not part of the experiment.
        ZooExpError: data that cannot be read.
    """

    def __init__(
        self,
        experiment: Experiment,
        trainer: lightning.Trainer,
        console: Console,
        tasks: Collection[str] | None,
    ) -> None:
        unknown = sorted(set(tasks or ()) - set(experiment.tasks))
        if unknown:
            raise UnknownNameError("task of this experiment", unknown[0], experiment.tasks)
        self.experiment, self.trainer, self.console = experiment, trainer, console
        self.folder = experiment.run_dir
        wanted = [cell for cell in experiment.cells() if tasks is None or cell.task in tasks]
        self.work = [load_work(cell, experiment.data.root, experiment.limit) for cell in wanted]
        self.module: PrunedVLM | None = None
        self.missing = 0

    def follow(self) -> int:
        """Run as a rank other than 0; returns the exit code.

        Raises:
            ZooExpError: any error the user can correct; where rank 0 started this process, rank 0 raises it instead.
        """
        try:
            self._answer()
        except Exception as error:
            outside = launch.started_outside(os.environ)
            if isinstance(error, stop.Stopped) or stop.requested():
                number = stop.requested()
                self._tell(cells.STOPPED, f"stopped by {number.name if number else 'a signal'}")
                # Lightning's launcher kills rank 0 when a process that it started exits with a nonzero code.
                return stop.EXIT_CODE if launch.under_srun(os.environ) else 0
            if not ranks.lost(error):
                self._tell(cells.FAILED, error)
            if outside:
                raise
        return 0

    def _tell(self, state: str, error: Exception | str) -> None:
        """Tell rank 0 how this rank ended."""
        current = self.module.work if self.module else None
        cell = (current or self.work[0]).cell
        with suppress(OSError, ZooExpError):
            ranks.tell(self.folder, cell, state, self.trainer.global_rank, error)

    def lead(self) -> int:
        """Run as rank 0: find the missing answers, generate them, check that all are there; returns the exit code."""
        for item in self.work:
            facts = {"samples": len(item.ids), "device": manifest.device(), "rank": 0}
            cells.note(self.folder, item.cell, cells.RUNNING, **facts)
        try:
            self._resume()
            self._check()
        except stop.Stopped:
            return self._stopped()
        except BaseException as error:
            self._failed(error)
            raise
        for item in self.work:
            cells.note(self.folder, item.cell, cells.DONE)
        return 0

    def _resume(self) -> None:
        have = cells.answered(self.folder, [item.cell for item in self.work])
        self._look_up(have)
        if any(item.todo for item in self.work):
            wanted = {item.cell.id: frozenset(item.ids) for item in self.work}
            taken = resume.adopt(self.folder, [item.cell for item in self.work], wanted, have)
            if taken:
                self.console.print(resume.describe(taken), style="dim", markup=False)
                self._look_up(have)
            lacking = [
                arm
                for arm in self.experiment.arms
                if any(set(item.ids) - set(item.done.get(arm.id, ())) for item in self.work)
            ]
            changed = resume.changed_selectors(self.folder, lacking)
            if changed:
                self.console.print(
                    resume.describe_changed(changed), style="dim", markup=False, soft_wrap=True
                )
        missing, total = sum(item.answers for item in self.work), sum(item.total for item in self.work)
        if missing < total:
            self.console.print(f"{total - missing} of {total} answers are already recorded", style="dim")
        self.missing = missing
        # Ranks started by srun or torchrun wait for this one, even if nothing is left.
        environment = self.trainer.strategy.cluster_environment if self.trainer.world_size > 1 else None  # type: ignore[attr-defined]
        if missing or (environment is not None and environment.creates_processes_externally):
            self._answer()

    def _look_up(self, have: cells.Answered) -> None:
        self.work = [item.after(have.get(item.cell.id, {})) for item in self.work]

    def _answer(self) -> None:
        """Generate the missing answers of this rank."""
        if stop.requested():
            raise stop.Stopped
        experiment = self.experiment
        ranks = self.trainer.num_devices if self.trainer.world_size > 1 else 1
        use_threads(experiment.trainer.threads, ranks)
        slow = half_on_cpu(experiment.model) if self.trainer.strategy.root_device.type == "cpu" else None
        if slow and self.trainer.is_global_zero:
            self.console.print(slow, style="yellow", soft_wrap=True, highlight=False)
        if not is_shipped(experiment.model.path):
            self.console.print(
                f"loading {describe_model(experiment.model)} ...", style="dim", markup=False, soft_wrap=True
            )
        loaded = _load(experiment)
        cache = open_cache(experiment, loaded)
        generator = self._generator(loaded)
        module = self.module = PrunedVLM(
            loaded, self.folder, cache, generator, experiment.engine.arms_per_call
        )
        if module.costs is None and self.trainer.is_global_zero:
            kind = loaded.model.config.model_type
            self.console.print(
                f"model type {kind} has no formula for FLOPs: their columns stay empty",
                style="dim",
                soft_wrap=True,
            )
        progress = RunProgress(self.console, module, self.trainer.world_size)
        if self.trainer.is_global_zero:
            self.console.print(
                f"{experiment.name}: {counted(self.missing, 'answer')} ({counted(len(self.work), 'task')}, "
                f"{arms_text(experiment.arms)}) on {loaded.name}; records in {self.folder}",
                soft_wrap=True,
                markup=False,
            )
            for line in own_questions(self.work, loaded.processor, experiment.model):
                self.console.print(line, style="yellow", markup=False, soft_wrap=True, highlight=False)
            if generator.stages:  # estimates measure transformers
                self._tell_costs(loaded)
            progress.expect(self.missing)

        def collate(item: Work) -> Collate:
            return Collate(item.task, loaded.processor, experiment.model.prompt_family)

        data = CellsData(self.work, collate, experiment.model.batch_size, experiment.data.workers)
        try:
            with progress, self._watched(module) as watch:
                try:
                    self.trainer.test(module, datamodule=data, verbose=False)
                except BaseException as error:
                    reason = watch.reason(error)
                    if reason is error:
                        raise
                    raise reason from error
            if cache is not None:
                self.console.print(cache.summary(), soft_wrap=True, highlight=False, style="dim")
        except stop.Stopped:
            self._release(signal.SIGTERM)
            raise
        except BaseException:
            self._release(signal.SIGKILL)
            raise
        finally:
            module.end()
            generator.close()

    def _generator(self, loaded: LoadedModel) -> Generator:
        """The engine, which takes a while to start."""
        engine = self.experiment.engine
        if engine.name != "hf":
            where = "starting" if engine.url is None else f"asking {engine.url}:"
            self.console.print(
                f"{where} {engine.name} {engine.version} ...", style="dim", markup=False, soft_wrap=True
            )
        return open_generator(engine, self.experiment.model, loaded)

    def _tell_costs(self, loaded: LoadedModel) -> None:
        """Print what the missing answers will cost."""
        asked = []
        for item in self.work:
            lacking = {arm.id: len(set(item.ids) - set(item.done.get(arm.id, ()))) for arm in item.cell.arms}
            asked.append(cost_estimate.Asked(item.cell, len(item.todo), lacking))
        device = self.trainer.strategy.root_device
        found = cost_estimate.of_experiment(self.experiment, asked, loaded, device)
        for line in found.lines() if found else []:
            self.console.print(line, style="dim", markup=False, soft_wrap=True, highlight=False)

    def _watched(self, module: PrunedVLM) -> ranks.Watch:
        """Follows the notes of other ranks, if there are any."""
        wanted = [item.cell for item in self.work] if self.trainer.is_global_zero else []
        several = self.trainer.world_size > 1
        return ranks.Watch(
            self.folder, wanted if several else [], lambda: not module.started, lambda n: self._release(n, 0)
        )

    def _release(self, number: signal.Signals, patience: float = ranks.PATIENCE) -> None:
        """End the processes that Lightning started; see `ranks.end`."""
        ranks.end(getattr(self.trainer.strategy.launcher, "procs", []), number, patience)

    def _check(self) -> None:
        """Read the records back: a cell is complete if it has a record for every answer."""
        if self.missing:
            self._look_up(cells.answered(self.folder, [item.cell for item in self.work]))
        lost = [item for item in self.work if item.todo]
        if lost:
            named = ", ".join(f"{item.task.name} ({item.answers})" for item in lost)
            raise ZooExpError(
                f"answers are missing although all processes have ended: {named}. Rerun the same command to resume"
            )

    def _stopped(self) -> int:
        """Note that the run stopped, and requeue the SLURM job."""
        number = stop.requested()
        name = number.name if number else "a signal"
        for item in self.work:
            cells.note(self.folder, item.cell, cells.STOPPED, error=f"stopped by {name}", rank=0)
        recorded = self.module.recorded if self.module else 0
        then = stop.requeue(recorded)
        self.console.print(
            f"stopped by {name} with {counted(recorded, 'new answer')} on disk; {then}",
            soft_wrap=True,
            markup=False,
        )
        return stop.EXIT_CODE

    def _failed(self, error: BaseException) -> None:
        """Note the error with the cell in which it occurred."""
        user = isinstance(error, (KeyboardInterrupt, SystemExit))
        current = self.module.work if self.module else None
        message = "interrupted" if user else " ".join(str(as_ours(error)).split())
        for item in self.work:
            mine = current is None or item.cell.id == current.cell.id
            state = cells.FAILED if mine and not user else cells.STOPPED
            with suppress(OSError, ZooExpError):  # a full disk may be the error
                cells.note(self.folder, item.cell, state, error=message if mine else "", rank=0)


def _load(experiment: Experiment) -> LoadedModel:
    loaded = load_configured(experiment.model, decoder=experiment.engine.name == "hf")
    for arm in experiment.arms:
        if arm.budget is not None and loaded.n_visual is not None:
            arm.budget.resolve(loaded.n_visual)
            selector = selectors.get(arm.selector, **arm.options)
            if isinstance(selector, LayerSelector):  # refuses a mean below what its full layers make
                selector.schedule(arm.budget, loaded.n_visual, len(loaded.adapter.layers))
    return loaded

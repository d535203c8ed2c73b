"""An experiment from its cells to its tables: resume, run what is missing, merge, report."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

from zoo_exp.config.experiment import Cell, Experiment
from zoo_exp.core.errors import InvalidValueError
from zoo_exp.evaluation import journal, resume
from zoo_exp.evaluation.lock import locked
from zoo_exp.evaluation.masks import MaskWriter
from zoo_exp.evaluation.module import Done, PrunedVLM
from zoo_exp.evaluation.progress import RunProgress
from zoo_exp.evaluation.samples import Collate, Pending, make_loader, shard
from zoo_exp.models.loading import LoadedModel, load_model
from zoo_exp.quiet import quieten
from zoo_exp.report import summary
from zoo_exp.report.provenance import manifest
from zoo_exp.tasks import data
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks.base import Task


@dataclass(frozen=True)
class Work:
    """A cell with its rows and what is left of it: `todo` are places of samples that lack some arm."""

    cell: Cell
    task: Task
    rows: data.Rows
    ids: list[str]
    done: Done
    todo: list[int]

    @property
    def answers(self) -> int:
        """Answers that are missing."""
        return sum(
            self.ids[place] not in self.done.get(arm.id, ()) for place in self.todo for arm in self.cell.arms
        )


def run(experiment: Experiment, console: Console | None = None) -> int:
    """Run an experiment, or go on with it; print and write its tables.

    Args:
        experiment: from `zoo_exp.config.compose`.
        console: where tables and messages go; standard output by default.

    Returns:
        Exit code 0.

    Raises:
        ZooExpError: whatever the user can mend.
    """
    main = rank_zero_only.rank == 0
    console = console or Console(quiet=not main)
    folder = experiment.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    quieten()
    if not main:
        _run_cells(experiment, console)
        return 0
    with locked(folder):
        _write_experiment(experiment)
        started = time.perf_counter()
        answers = _run_cells(experiment, console)
        _merge(experiment)
        _report(experiment, console, answers, time.perf_counter() - started)
    return 0


def _run_cells(experiment: Experiment, console: Console) -> int:
    """Answer what is missing; returns how many answers that were."""
    folder, rank = experiment.run_dir, rank_zero_only.rank
    rows = {
        cell.id: data.load(get_task(cell.task), experiment.data.root, experiment.limit)
        for cell in experiment.cells()
    }
    work = _plan(experiment, rows)
    if rank == 0 and any(item.todo for item in work):
        taken = resume.adopt(folder, experiment.cells(), {item.cell.id: frozenset(item.ids) for item in work})
        if taken:
            console.print(resume.describe(taken), style="dim")
            work = _plan(experiment, rows)
    missing = sum(item.answers for item in work)
    total = sum(len(item.ids) * len(item.cell.arms) for item in work)
    if missing < total:
        console.print(f"{total - missing} of {total} answers are there already", style="dim")
    if not missing:
        return 0
    _torch_threads()
    loaded = _load(experiment)
    module = PrunedVLM(loaded)
    console.print(
        f"{experiment.name}: {missing} answers ({len(work)} tasks, {len(experiment.arms)} arms) "
        f"on {loaded.name}; records in {folder}"
    )
    progress = RunProgress(console, missing)
    trainer = _trainer(experiment, progress)
    with (
        progress,
        journal.Journal(folder, "records", rank) as records,
        journal.Journal(folder, "timings", rank) as timings,
        MaskWriter(folder, rank) as masks,
    ):
        for item in work:
            if item.todo:
                module.begin(item.cell, item.task, item.done, records, timings, masks)
                trainer.test(module, _loader(experiment, item, loaded, trainer), verbose=False)
    return missing


def _plan(experiment: Experiment, rows: Mapping[str, data.Rows]) -> list[Work]:
    """What is left of every cell."""
    answered = resume.answered(experiment.run_dir)
    return [_work(cell, rows[cell.id], answered.get(cell.id, {})) for cell in experiment.cells()]


def _work(cell: Cell, rows: data.Rows, done: Done) -> Work:
    task = get_task(cell.task)
    ids = rows.sample_ids(task)
    twice = len(ids) - len(set(ids))
    if twice:
        raise InvalidValueError(f"{task.name}: {twice} rows share their sample id with another row")
    todo = [
        place for place, name in enumerate(ids) if any(name not in done.get(arm.id, ()) for arm in cell.arms)
    ]
    return Work(cell, task, rows, ids, done, todo)


def _load(experiment: Experiment) -> LoadedModel:
    model = experiment.model
    loaded = load_model(
        model.path,
        revision=model.revision,
        dtype=model.dtype,
        attention=model.attention,
        device_map=model.device_map,
        weights=model.weights,
        layers=model.layers,
        trust_remote_code=model.trust_remote_code,
    )
    for arm in experiment.arms:
        if arm.budget is not None and loaded.n_visual is not None:
            arm.budget.resolve(loaded.n_visual)
    return loaded


def _loader(experiment: Experiment, item: Work, loaded: LoadedModel, trainer: lightning.Trainer) -> Any:
    """The rank's part of what is left, in batches."""
    family = "embedded" if experiment.model.path == "embedded" else experiment.model.family
    numbers = shard(item.todo, rank_zero_only.rank, trainer.world_size)
    pending = Pending(item.task, item.rows, numbers)
    collate = Collate(item.task, loaded.processor, family)
    return make_loader(pending, collate, experiment.model.batch_size, experiment.data.workers)


def _trainer(experiment: Experiment, progress: RunProgress) -> lightning.Trainer:
    """Lightning's Trainer: it brings devices, ranks and signal handling; records and metrics are ours."""
    config = experiment.trainer
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        callbacks=[progress],
        use_distributed_sampler=False,  # `shard` is exact; Lightning's repeats samples
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
        default_root_dir=experiment.run_dir,
    )


def _merge(experiment: Experiment) -> None:
    """All ranks' and attempts' rows in one sorted file each."""
    folder = experiment.run_dir
    journal.merge(folder, "records", resume.RECORD_KEY)
    resume.merge_masks(folder)
    journal.gather(folder, "timings")


def _write_experiment(experiment: Experiment) -> None:
    folder = experiment.run_dir
    (folder / "config.yaml").write_text(experiment.to_yaml(), encoding="utf-8")
    resume.write_manifest(folder, {"experiment": experiment.as_dict(), "provenance": manifest()})


def _report(experiment: Experiment, console: Console, answers: int, seconds: float) -> None:
    """Tables, gallery, W&B, and where everything lies."""
    tasks = {name: get_task(name) for name in experiment.tasks}
    summary.write(
        experiment.run_dir,
        experiment.name,
        list(experiment.tasks),
        [arm.as_dict() for arm in experiment.arms],
        aggregate=lambda name, rows: tasks[name].aggregate(rows),
        main_metric=lambda name: tasks[name].main_metric,
        scoring=lambda name: tasks[name],
        console=console,
    )
    if answers:
        console.print(f"{answers} answers in {seconds:.0f} s{_pace(experiment)}")
    if experiment.logger.name == "wandb":
        from zoo_exp.report.wandb import log_run

        log_run(
            experiment.run_dir,
            experiment.as_dict(),
            experiment.logger.mode,
            experiment.logger.project,
            echo=lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False),
        )
    console.print(f"table, records and pictures: {experiment.run_dir}", soft_wrap=True, highlight=False)


def _pace(experiment: Experiment) -> str:
    """What all arms cost beside the full-token arm alone, from the stage times of this run."""
    spent: dict[str, float] = {}
    vision: dict[str, float] = {}
    for row in journal.read(experiment.run_dir, "timings"):
        label = row["arm"]
        spent[label] = spent.get(label, 0.0) + row["spent_ms"]
        vision[label] = vision.get(label, 0.0) + row["vision_ms"]
    full = next((arm.label for arm in experiment.arms if arm.selector == "full"), None)
    if full is None or full not in spent:
        return ""
    alone, together = spent[full] + vision[full], sum(spent.values()) + max(vision.values())
    return (
        f"; in the model {together / 1e3:.1f} s for {len(spent)} arms, {alone / 1e3:.1f} s for the full-token "
        f"arm alone: {together / alone:.1f}x the time for {len(spent)}x the answers"
    )


def _torch_threads() -> None:
    """As many threads as the process may use: torch counts the machine's cores, not the job's share."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))

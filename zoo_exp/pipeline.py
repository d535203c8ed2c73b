"""The pipeline: answer what is missing in the cells of an experiment, merge the journals, report."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from rich.console import Console

from zoo_exp.config.experiment import Experiment, arms_text
from zoo_exp.console import plain_console
from zoo_exp.errors import ZooExpError
from zoo_exp.evaluation import launch, stop
from zoo_exp.evaluation.attempt import Attempt
from zoo_exp.files import naming, remove_leftovers
from zoo_exp.quiet import quieten
from zoo_exp.runs import anew, cells, folder, lock, manifest, merge, provenance, reading
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks.submission_files import write_submissions
from zoo_exp.wording import counted


def run(experiment: Experiment, console: Console | None = None, tasks: Collection[str] | None = None) -> int:
    """Run an experiment or resume it; once every cell is complete, print and write its tables.

    Args:
        experiment: from `zoo_exp.config.compose`.
        console: receives tables and messages; standard output by default.
        tasks: run the cells of these tasks only; their records go to the folder of the whole experiment.

    Returns:
        Exit code: 0, or 75 if SIGUSR1 or SIGTERM stopped the run.

    Raises:
        ZooExpError: any error the user can correct.
    """
    quieten()
    with stop.listening(), naming(experiment.run_dir):
        callbacks = _callbacks(experiment, console, tasks)
        trainer = launch.make_trainer(experiment.trainer, experiment.run_dir, callbacks)
        console = console or plain_console(quiet=not trainer.is_global_zero)
        attempt = Attempt(experiment, trainer, console, tasks)
        if not trainer.is_global_zero:
            return attempt.follow()
        started = time.perf_counter()
        # A SLURM submission has started anew already, for all of its cells together.
        if experiment.fresh and tasks is None:
            start_anew(experiment, console)
        code = _answer(experiment, attempt, callbacks, alone=tasks is None and trainer.world_size == 1)
        if code == 0 and (tasks is None or _is_last(experiment, console)):
            processor = attempt.module.loaded.processor if attempt.module else None
            finish(experiment, console, attempt.missing, time.perf_counter() - started, processor)
        return code


def _answer(experiment: Experiment, attempt: Attempt, callbacks: list[Any], alone: bool) -> int:
    """Answer what is missing while this process holds the locks of its cells; the exit code.

    Args:
        experiment: the experiment.
        attempt: what is left to answer, and how.
        callbacks: closed at the end.
        alone: whether this process holds all cells, so that it may merge an incomplete run.
    """
    run_dir = experiment.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    with lock.cells(run_dir, [item.cell.id for item in attempt.work]):
        remove_leftovers(run_dir)
        manifest.write(run_dir, experiment, provenance.versions())
        code = stop.EXIT_CODE
        try:
            code = attempt.lead()
        finally:
            for callback in callbacks:
                callback.close()
            if code and alone:
                with suppress(OSError, ZooExpError):
                    merge.merge_run(experiment)
    return code


def start_anew(experiment: Experiment, console: Console) -> None:
    """Start an experiment anew (`fresh=true`); earlier answers are kept under another name."""
    aside = anew.start_anew(experiment.run_dir, [cell.id for cell in experiment.cells()])
    if aside is not None:
        console.print(
            f"started anew; earlier answers are kept in {aside}", style="dim", markup=False, soft_wrap=True
        )


def finish(
    experiment: Experiment,
    console: Console,
    answers: int = 0,
    seconds: float = 0.0,
    processor: Any = None,
) -> None:
    """Merge and report an experiment whose cells are complete.

    Args:
        experiment: the experiment.
        console: receives tables and messages.
        answers: number of new answers; 0 if a finished run is shown again.
        seconds: time that they took.
        processor: of the model, for masks; None loads it where it is needed.
    """
    with naming(experiment.run_dir), lock.waiting(experiment.run_dir, "finish"):
        merge.merge_run(experiment)
        _report(experiment, console, answers, seconds, processor)


def _is_last(experiment: Experiment, console: Console) -> bool:
    """Whether all cells are complete after this process ran some of them, and no other process has merged them."""
    states = cells.states(experiment.run_dir, experiment.cells())
    left = [state.cell.task for state in states if not state.complete]
    if left:
        console.print(
            f"{len(left)} of {len(states)} cells are not complete yet: {', '.join(left)}", markup=False
        )
    return not left and bool(folder.journals(experiment.run_dir, folder.RECORDS))


def _report(
    experiment: Experiment, console: Console, answers: int, seconds: float, processor: Any = None
) -> None:
    """Write submissions and tables, log to W&B, and print where the results are."""
    # Imported after the answers: scipy, pandas and matplotlib take a second.
    from zoo_exp.evaluation import mask_drawing
    from zoo_exp.report import summary

    tasks = {name: get_task(name) for name in experiment.tasks}
    records = reading.records(experiment.run_dir, damaged=[])
    for path in write_submissions(tasks.values(), records, folder.submissions(experiment.run_dir)):
        console.print(f"submission file: {path}", soft_wrap=True, highlight=False, markup=False)
    if all(task.submission_only for task in tasks.values()):
        return  # only the server of the benchmark can score these
    problem = mask_drawing.draw_differing(experiment.run_dir, experiment.seed, processor)
    if problem:
        console.print(problem, style="dim", markup=False, soft_wrap=True)
    summary.write(
        experiment.run_dir,
        experiment.name,
        list(tasks.values()),
        [arm.as_dict() for arm in experiment.arms],
        console=console,
        config=experiment.as_dict(),
    )
    if answers:
        console.print(f"{counted(answers, 'answer')} in {seconds:.0f} s{_pace(experiment)}", markup=False)
    if experiment.logger.name == "wandb":
        from zoo_exp.tracking.final_run import log_run

        log_run(
            experiment.run_dir,
            experiment.as_dict(),
            experiment.logger.mode,
            experiment.logger.project,
            echo=_plain(console),
            entity=experiment.logger.entity,
            tags=experiment.logger.tags,
            media_mb=experiment.logger.media_mb,
        )
    console.print(
        f"tables, records and figures: {experiment.run_dir}", soft_wrap=True, highlight=False, markup=False
    )


def _callbacks(experiment: Experiment, console: Console | None, tasks: Collection[str] | None) -> list[Any]:
    """The W&B logger, unless it is switched off."""
    if experiment.logger.name != "wandb":
        return []
    from zoo_exp.tracking.cell_logger import CellLogger

    return [CellLogger(experiment, _plain(console or plain_console()), tasks)]


def _plain(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False)


def _pace(experiment: Experiment) -> str:
    """Time of all arms relative to the full-token arm alone, from the stage times of this run."""
    spent: dict[str, float] = {}
    vision: dict[str, float] = {}
    for timing in reading.timings(experiment.run_dir):
        spent[timing.arm] = spent.get(timing.arm, 0.0) + (timing.spent_ms or 0.0)
        vision[timing.arm] = vision.get(timing.arm, 0.0) + (timing.vision_ms or 0.0)
    full = next((arm.label for arm in experiment.arms if arm.selector == "full"), None)
    if full is None or full not in spent:
        return ""
    alone, together = spent[full] + vision[full], sum(spent.values()) + max(vision.values())
    arms = [arm for arm in experiment.arms if arm.label in spent]
    if not alone:  # timings of version 1 may lack these columns
        return ""
    return (
        f"; in the model {together / 1e3:.1f} s for {arms_text(arms)}, {alone / 1e3:.1f} s for the full-token "
        f"arm alone: {together / alone:.1f}x the time for {len(spent)}x the answers"
    )

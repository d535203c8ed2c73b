"""Submit an experiment as a SLURM array, one task per cell; resubmitting runs only incomplete cells.

Overrides are those of `run`, and these job settings:
  partition=P account=A qos=Q constraint=C      where the job runs
  gpus=1 nodes=1 processes=1 cpus=4 mem=64G     resources per cell (gpus, processes, mem: per node)
  time=04:00:00                                 time limit; a cell that needs more is requeued and resumes
  parallel=8                                    maximum number of cells that run at the same time
  script=FILE                                   your own batch script instead of slurm/array.sbatch

All cells write to one run folder, the same one as `run`; model=[A,B] submits an array per model and ends in one table.
See slurm/README.md.

Examples:
  python -m zoo_exp slurm +exp=table1_llava15_7b partition=gpu gpus=1 time=04:00:00
  python -m zoo_exp slurm +exp=table1_llava15_7b --status
  python -m zoo_exp slurm +exp=ablation_fusion --dry-run
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp._cli.run import add_config_dir, check_writable, note, sweep_table
from zoo_exp.errors import InvalidValueError
from zoo_exp.wording import counted

if TYPE_CHECKING:
    from zoo_exp.cluster.resources import Resources
    from zoo_exp.config.experiment import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `slurm`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides of `run`, and job settings"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="print the status of every cell and exit")
    what.add_argument(
        "--dry-run", action="store_true", help="print the command and the batch script and exit"
    )
    what.add_argument(
        "--wait",
        action="store_true",
        help="wait until the jobs have ended; exit code 0 if all cells are complete",
    )
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=slurm)


def slurm(args: argparse.Namespace) -> int:
    """Submit incomplete cells or print their status; inside a job, run one cell."""
    if args.cell is not None:
        from zoo_exp.evaluation import stop

        if args.plan is None:
            raise InvalidValueError("--cell needs --plan FILE, as the batch script gives it")
        stop.install()  # before slow imports: SIGUSR1 without a handler kills the process
        from zoo_exp import pipeline
        from zoo_exp.cluster.cell import run_cell

        return run_cell(args.plan, args.cell, pipeline.run)

    from zoo_exp.cluster import resources
    from zoo_exp.config.sweep import points

    if not args.overrides:
        raise InvalidValueError(
            "slurm needs an experiment: +exp=NAME (python -m zoo_exp list exps) or any overrides of `run`"
        )
    wanted, overrides = resources.split(args.overrides)
    found = points(overrides, args.config_dir)
    for text in dict.fromkeys(text for point in found for text in point.experiment.notes):
        note(text)
    several = len(found) > 1
    if not (args.status or args.dry_run):
        for point in found:
            check_writable(point.experiment.out)
    ended = []
    for point in found:
        if several:
            print(f"model {point.experiment.model.name}:")
        if args.status:
            _print_status(point.experiment)
        elif args.dry_run:
            _print_job(point.experiment, wanted)
        else:
            _submit(point.experiment, wanted, args)
    for point in [] if args.status or args.dry_run else found:
        ended.append(_finish(point.experiment, args.wait))
    if several and ended and all(ended):
        sweep_table(found)
    return 0 if all(ended) or not args.wait else 1


def _print_status(experiment: "Experiment") -> None:
    """Print the state of every cell; it is on disk, so no cluster is needed."""
    from zoo_exp.cluster import status

    queue, unknown = status.queue_or_reason(experiment)
    print(status.table(status.rows(experiment, queue)))
    if unknown:
        print(f"queue unknown ({unknown}): pending cells are not marked above")


def _print_job(experiment: "Experiment", wanted: "Resources") -> None:
    """Print the command and the batch script, without submitting."""
    from zoo_exp.cluster import status, submission

    queue, _ = status.queue_or_reason(experiment)
    found = status.rows(experiment, queue)
    prepared = submission.prepare(experiment, wanted, status.left(found) or range(len(found)))
    print(f"# {shlex.join(prepared.command)}\n{prepared.script.read_text()}", end="")


def _submit(experiment: "Experiment", wanted: "Resources", args: argparse.Namespace) -> None:
    """Submit the cells that are not complete, not running and not queued."""
    from zoo_exp.cluster import status, submission, tools

    found = status.rows(experiment, None)
    indices = status.left(found)
    if experiment.fresh:
        from zoo_exp import pipeline
        from zoo_exp.console import plain_console

        pipeline.start_anew(experiment, plain_console())
        indices = list(range(len(found)))
    if not indices:
        print(f"nothing to submit: {status.summary(found)}")
        return
    prepared = submission.prepare(experiment, wanted, indices)
    tools.check_partition(wanted.partition)
    job = submission.submit(prepared, experiment, args.config_dir)
    tasks = ", ".join(experiment.tasks[index] for index in indices)
    print(f"job {job}: {len(indices)} of {counted(len(found), 'cell')} ({tasks})")
    print(f"logs: {submission.folder_of(experiment) / submission.LOGS}/{job}_*.out")
    print(f"watch: squeue --job={job}, or python -m zoo_exp slurm {shlex.join(args.overrides)} --status")


def _finish(experiment: "Experiment", wait: bool) -> bool:
    """Wait if asked to, and make the tables that a job did not make; returns whether every cell is complete."""
    from zoo_exp.cluster import status
    from zoo_exp.runs import cells, folder

    if wait:
        status.wait(experiment, lambda text: print(text, flush=True))
    found = status.rows(experiment, None if wait else {})  # completeness is on disk
    if wait:
        print(status.table(found))
    complete = all(row.state == cells.DONE for row in found)
    if complete and not folder.results(experiment.run_dir, ".json").is_file():
        # The job that completed the last cell makes the tables; this one was cut short before it did.
        from zoo_exp import pipeline
        from zoo_exp.console import plain_console

        pipeline.finish(experiment, plain_console())
    return complete

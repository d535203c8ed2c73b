"""Run an experiment as a SLURM array, one index per cell; again: only the cells that are not complete.

The overrides are those of `run`. Beside them, what a job asks for:
  partition=P account=A qos=Q constraint=C      where it runs
  gpus=1 nodes=1 processes=1 cpus=4 mem=64G     of each cell (gpus, processes, mem: of each node)
  time=04:00:00                                 a cell that needs more is requeued and goes on
  parallel=8                                    cells at the same time, at most
  script=FILE                                   a batch script of yours in the place of slurm/array.sbatch

Records of all cells go to one folder, the same as those of `run`. slurm/README.md has the details.

Examples:
  python -m zoo_exp slurm +exp=table1_llava15_7b partition=gpu gpus=1 time=04:00:00
  python -m zoo_exp slurm +exp=table1_llava15_7b --status
  python -m zoo_exp slurm +exp=ablation_fusion --dry-run
"""

import argparse
import shlex
from pathlib import Path

from zoo_exp._cli.run import add_config_dir, check_writable
from zoo_exp.errors import InvalidValueError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `slurm`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the overrides of `run`, and what a job asks for"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="how every cell stands; submit nothing")
    what.add_argument(
        "--dry-run", action="store_true", help="print the command and the script; submit nothing"
    )
    what.add_argument(
        "--wait", action="store_true", help="stay until the jobs have ended; exit code 0 if all did"
    )
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=slurm)


def slurm(args: argparse.Namespace) -> int:
    """Submit what is missing, or say how it stands; inside a job, run one cell."""
    if args.cell is not None:
        from zoo_exp.evaluation import stop

        stop.install()  # before anything slow: SIGUSR1 without a handler kills
        from zoo_exp import pipeline
        from zoo_exp.cluster.cell import run_cell

        return run_cell(args.plan, args.cell, pipeline.run)

    from zoo_exp.cluster import resources, status, submission, tools
    from zoo_exp.config.compose import compose
    from zoo_exp.runs import cells

    if not args.overrides:
        raise InvalidValueError(
            "slurm what? +exp=NAME (python -m zoo_exp list exps) or any overrides of `run`"
        )
    wanted, overrides = resources.split(args.overrides)
    experiment = compose(overrides, args.config_dir)
    # What is done and missing is on disk: to look at it, or at a script, takes no cluster.
    queue, unknown = status.queue_or_reason(experiment) if args.status or args.dry_run else (None, "")
    found = status.rows(experiment, queue)
    if args.status:
        print(status.table(found))
        if unknown:
            print(f"queue unknown ({unknown}): what waits there is not marked above")
        return 0
    indices = status.left(found)
    if args.dry_run:
        prepared = submission.prepare(experiment, wanted, indices or range(len(found)))
        print(f"# {shlex.join(prepared.command)}\n{prepared.script.read_text()}", end="")
        return 0
    check_writable(experiment.out)
    if indices:
        prepared = submission.prepare(experiment, wanted, indices)
        tools.check_partition(wanted.partition)
        job = submission.submit(prepared, experiment, args.config_dir)
        tasks = ", ".join(experiment.tasks[index] for index in indices)
        print(f"job {job}: {len(indices)} of {len(found)} cells ({tasks})")
        print(f"logs: {submission.folder_of(experiment) / submission.LOGS}/{job}_*.out")
        print(f"watch: squeue --job={job}, or python -m zoo_exp slurm {shlex.join(args.overrides)} --status")
    else:
        print(f"nothing to submit: {status.summary(found)}")
    if args.wait:
        status.wait(experiment, lambda text: print(text, flush=True))
        found = status.rows(experiment)
        print(status.table(found))
    complete = all(row.state == cells.DONE for row in found)
    if complete and not (experiment.run_dir / "results.json").is_file():
        # The job that completed the last cell makes the tables; this one was cut short before it did.
        from rich.console import Console

        from zoo_exp import pipeline

        pipeline.finish(experiment, Console())
    return 0 if complete or not args.wait else 1

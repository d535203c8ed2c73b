"""The work of one array index: compose the submitted experiment, check that it is unchanged, run its cell."""

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from rich.console import Console

from zoo_exp.cluster.submission import read_plan
from zoo_exp.config.compose import compose
from zoo_exp.config.experiment import Experiment
from zoo_exp.console import plain_console
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import sources, stop
from zoo_exp.runs import manifest

WIDTH = 120
"""Width of a log in columns."""
Run = Callable[[Experiment, Console, Collection[str]], int]
"""`pipeline.run`: answers the cells of some tasks and returns an exit code."""


def run_cell(plan_path: Path, index: int, run: Run) -> int:
    """Run one cell into the folder of the whole experiment.

    Args:
        plan_path: the plan that `submit` wrote.
        index: place of the task in the experiment.
        run: runs the experiment restricted to that task.

    Returns:
        Exit code: 0, or 75 if the cell was stopped and will resume.

    Raises:
        InvalidValueError: no such index, or the configuration has changed since the submission.
        ZooExpError: any error of the run.
    """
    stop.install()
    plan = read_plan(plan_path)
    if not 0 <= index < len(plan["tasks"]):
        raise InvalidValueError(f"--cell {index}: {plan_path} has the cells 0 to {len(plan['tasks']) - 1}")
    experiment = compose(plan["overrides"], plan["config_dirs"])
    manifest.refuse_changes(
        "the configuration has changed since this job was submitted", plan["experiment"], experiment
    )
    main = os.environ.get("SLURM_PROCID", "0") == "0"
    sources.check(experiment, print if main else lambda _: None)
    code = run(experiment, plain_console(width=WIDTH, quiet=not main), [plan["tasks"][index]])
    if code == stop.EXIT_CODE and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        # Other ranks may have exited: do not wait for them at interpreter shutdown.
        sys.stdout.flush()
        os._exit(code)
    return code

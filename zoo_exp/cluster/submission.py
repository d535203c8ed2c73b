"""Submit the incomplete cells of an experiment and store what was submitted."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_exp.cluster import tools
from zoo_exp.cluster.resources import Resources
from zoo_exp.config.experiment import Experiment
from zoo_exp.embedded.shipped import is_shipped
from zoo_exp.errors import MissingFileError, ZooExpError
from zoo_exp.files import write_text

FOLDER, PLAN, LOGS = "slurm", "plan.json", "logs"
_NO_GPUS = re.compile(r"gres|generic resource|gpu|node configuration is not available", re.IGNORECASE)
"""What sbatch says where a cluster or partition has no GPUs."""


@dataclass(frozen=True)
class Submission:
    """A submission to sbatch.

    Attributes:
        command: sbatch with all arguments.
        script: the batch script.
        indices: array indices: places of the tasks in the experiment.
    """

    command: list[str]
    script: Path
    indices: list[int]


def job_name(experiment: Experiment) -> str:
    """The name of the experiment's jobs in the queue."""
    return f"zoo-{experiment.id}"


def folder_of(experiment: Experiment) -> Path:
    """The folder of plan and logs."""
    return (experiment.run_dir / FOLDER).absolute()


def prepare(experiment: Experiment, resources: Resources, indices: Sequence[int]) -> Submission:
    """Build the sbatch command for some cells without writing anything.

    Raises:
        MissingFileError: no batch script.
    """
    if resources.gpus is None:
        gpus = 0 if is_shipped(experiment.model.path) or experiment.trainer.accelerator == "cpu" else 1
        resources = replace(resources, gpus=gpus)
    folder, script = folder_of(experiment), batch_script(resources.script)
    parallel = f"%{resources.parallel}" if resources.parallel else ""
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={job_name(experiment)}",
        f"--array={tools.ranges(indices)}{parallel}",
        f"--chdir={Path.cwd()}",
        f"--output={folder / LOGS / '%A_%a.out'}",
        *resources.flags(),
        str(script),
        sys.executable,
        str(folder / PLAN),
    ]
    return Submission(command, script, list(indices))


def submit(submission: Submission, experiment: Experiment, config_dirs: Sequence[str]) -> str:
    """Write the plan, submit the script, and return the job id.

    Raises:
        MissingFileError: no sbatch.
        ZooExpError: sbatch failed.
    """
    folder = folder_of(experiment)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    content = {
        "overrides": list(experiment.overrides),
        "config_dirs": [str(Path(path).expanduser().absolute()) for path in config_dirs],
        "tasks": list(experiment.tasks),
        "experiment": experiment.as_dict(),
    }
    write_text(folder / PLAN, json.dumps(content, indent=1, default=str) + "\n")
    try:
        return tools.call(submission.command).split(";")[0]
    except ZooExpError as error:
        asked = [flag for flag in submission.command if flag.startswith("--gpus-per-node")]
        if not asked or not _NO_GPUS.search(str(error)):
            raise
        raise ZooExpError(
            f"{error}. The job asks for {asked[0]}; where there are no GPUs, add gpus=0"
        ) from error


def read_plan(path: Path) -> dict[str, Any]:
    """Read the plan that `submit` wrote.

    Raises:
        MissingFileError: missing or damaged file.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingFileError(f"{path} cannot be read ({error}): submit the experiment again") from error
    return content


def batch_script(given: str | None = None) -> Path:
    """The user's batch script, or the default one: inside an installed package, beside it in a checkout.

    Raises:
        MissingFileError: no such file.
    """
    package = Path(__file__).resolve().parents[1]
    places = [Path(given).expanduser().absolute()] if given else [package, package.parent]
    for place in places:
        path = place if given else place / "slurm" / "array.sbatch"
        if path.is_file():
            return path
    raise MissingFileError(
        f"no batch script at {places[0]}: give one with script=FILE"
        + ("" if given else " (the default is slurm/array.sbatch of the repository)")
    )

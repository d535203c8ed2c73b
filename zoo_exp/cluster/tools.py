"""SLURM's own commands, with errors that say what to do."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from zoo_exp.core.errors import MissingFileError, UnknownNameError, ZooExpError


def call(command: Sequence[str]) -> str:
    """Standard output of a SLURM command.

    Raises:
        MissingFileError: the command is not there.
        ZooExpError: it failed; with what it said.
    """
    if shutil.which(command[0]) is None:
        raise MissingFileError(
            f"{command[0]} is not on the PATH: submit from a login node of the cluster. --dry-run shows what would "
            "be submitted; python -m zoo_exp run does the same work here"
        )
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ZooExpError(f"{command[0]} refused: {said or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def check_partition(name: str | None) -> None:
    """Refuse a partition that the cluster does not have.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name is None:
        return
    known = sorted(set(call(["sinfo", "--noheader", "--format=%R"]).split()))
    for part in name.split(","):
        if part not in known:
            raise UnknownNameError("partition", part, known)


def queue(job_name: str) -> dict[int, str]:
    """Array index -> state (PENDING, RUNNING ...) of the user's jobs of a name; empty without SLURM."""
    if shutil.which("squeue") is None:
        return {}
    user = str(os.getuid())
    command = ["squeue", "--noheader", "--array", f"--user={user}", f"--name={job_name}", "--format=%K %T"]
    found = {}
    for line in call(command).splitlines():
        index, state = line.split()
        if index.isdigit():
            found[int(index)] = state
    return found


def ranges(indices: Sequence[int]) -> str:
    """Numbers as SLURM writes them.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], index]
        else:
            parts.append([index])
    return ",".join("-".join(map(str, part)) for part in parts)

"""SLURM commands, with errors that say what to do."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from zoo_exp.errors import MissingFileError, UnknownNameError, ZooExpError


class NoAnswerError(ZooExpError):
    """The cluster does not respond.

    Attributes:
        reason: the command and its error, in one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: run this on a login node of the cluster, or --dry-run to see what would be submitted"
        )
        self.reason = reason


def call(command: Sequence[str]) -> str:
    """Standard output of a SLURM command.

    Raises:
        MissingFileError: the command is not installed.
        ZooExpError: it failed; the message has its output.
    """
    done = _run(command)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ZooExpError(f"{command[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def ask(command: Sequence[str]) -> str:
    """Standard output of a command that queries the controller.

    Raises:
        MissingFileError: the command is not installed.
        NoAnswerError: the controller does not respond.
    """
    done = _run(command)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        # Lines about where it looked for a controller come first, the fatal error last.
        line = next((line for line in lines if "fatal:" in line), lines[0])
        said = re.sub(rf"^{command[0]}: ((error|fatal): )?", "", line.strip())
        raise NoAnswerError(f"{command[0]}: {said}")
    return done.stdout.strip()


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    if shutil.which(command[0]) is None:
        raise MissingFileError(
            f"{command[0]} is not on the PATH: submit from a login node of the cluster. --dry-run shows what would "
            "be submitted; python -m zoo_exp run does the same work here"
        )
    return subprocess.run(list(command), capture_output=True, text=True, check=False)


def check_partition(name: str | None) -> None:
    """Check that the cluster has the partition.

    Raises:
        UnknownNameError: unknown partition.
        NoAnswerError: the controller does not respond.
    """
    if name is None:
        return
    known = sorted(set(ask(["sinfo", "--noheader", "--format=%R"]).split()))
    for part in name.split(","):
        if part not in known:
            raise UnknownNameError("partition", part, known)


def queue(job_name: str) -> dict[int, str]:
    """Array index -> state (PENDING, RUNNING ...) of the user's jobs with a name; empty without SLURM.

    Raises:
        NoAnswerError: the controller does not respond.
    """
    if shutil.which("squeue") is None:
        return {}
    user = str(os.getuid())
    command = ["squeue", "--noheader", "--array", f"--user={user}", f"--name={job_name}", "--format=%K %T"]
    found = {}
    for line in ask(command).splitlines():
        index, state = line.split()
        if index.isdigit():
            found[int(index)] = state
    return found


def ranges(indices: Sequence[int]) -> str:
    """Array indices in SLURM's notation.

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

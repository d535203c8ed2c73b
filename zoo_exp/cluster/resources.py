"""The resources of a job: settings that `slurm` accepts besides the overrides of `run`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from zoo_exp.config.overrides import KEYS
from zoo_exp.errors import InvalidValueError, UnknownNameError

_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}")


@dataclass(frozen=True)
class Resources:
    """Resources of one cell; None means the cluster's default.

    Attributes:
        partition: partition, or several separated by commas.
        gpus: GPUs per node, one process each; None means one unless the model is embedded.
        nodes: number of nodes.
        processes: processes per node; None means one per GPU.
        cpus: cores per process.
        mem: memory per node, such as 64G.
        time: time limit, such as 04:00:00; a cell that needs more is requeued and resumes.
        parallel: maximum number of cells that run at the same time.
        account: the account to charge.
        qos: quality of service.
        constraint: features of the node.
        script: the batch script.
    """

    partition: str | None = None
    gpus: int | None = None
    nodes: int = 1
    processes: int | None = None
    cpus: int = 1
    mem: str | None = None
    time: str | None = None
    parallel: int | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    script: str | None = None

    def flags(self) -> list[str]:
        """Flags for sbatch."""
        gpus = self.gpus or 0
        processes = self.processes or max(1, gpus)
        flags = [f"--nodes={self.nodes}", f"--ntasks-per-node={processes}", f"--cpus-per-task={self.cpus}"]
        if gpus:
            flags.append(f"--gpus-per-node={gpus}")
        for name in ("partition", "mem", "time", "account", "qos", "constraint"):
            value = getattr(self, name)
            if value is not None:
                flags.append(f"--{name}={value}")
        return flags


def split(texts: Sequence[str]) -> tuple[Resources, list[str]]:
    """Split a command line into resources and overrides.

    Raises:
        InvalidValueError: not a whole number, or not a time in SLURM's format.
        UnknownNameError: neither a job setting nor a key of `run`.
    """
    names = {item.name: item for item in fields(Resources)}
    given: dict[str, int | str] = {}
    rest = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            key = name.lstrip("+").partition(".")[0]
            if equals and key not in KEYS:
                raise UnknownNameError(
                    "job setting or config key", name, [*names, *KEYS],
                    f"Job settings are {', '.join(names)}.", shown=(),
                )  # fmt: skip
            rest.append(text)
        elif not value:
            raise InvalidValueError(f"{text}: a value is expected")
        elif "int" in str(names[name].type):
            given[name] = _number(name, value)
        else:
            if name == "time" and not _TIME.fullmatch(value):
                raise InvalidValueError(f"time={value}: give minutes, HH:MM:SS or days-HH:MM:SS")
            given[name] = value
    return replace(Resources(), **given), rest  # type: ignore[arg-type]


def _number(name: str, value: str) -> int:
    lowest = 0 if name == "gpus" else 1
    if not value.isdigit() or int(value) < lowest:
        raise InvalidValueError(f"{name}={value}: give a whole number from {lowest}")
    return int(value)

"""The console that every command prints to."""

import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any

from rich.console import Console


class _Console(Console):
    """Ignores a closed pipe (for example of `head`), so that a run is not ended by it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain_console(**options: Any) -> Console:
    """A rich console that prints text as it is: names, paths, questions and responses are data, not markup.

    When the reader of standard output closes the pipe, the console falls silent and raises nothing.

    Args:
        options: of `rich.console.Console`, such as `stderr=True`.
    """
    return _Console(markup=False, emoji=False, highlight=False, **options)


def is_first_process() -> bool:
    """Whether this process is rank 0, or the only one, by the variables of srun, torchrun and Lightning."""
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK"))


class _BeforeTorch(MetaPathFinder):
    """Prints one line when torch is about to be imported, which takes seconds; it finds no module itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Called by the import system with the name of each module."""
        if name == "torch":
            sys.meta_path.remove(self)
            plain_console().print("loading PyTorch ...", style="dim")


def announce_torch() -> None:
    """Tell the user at the first import of torch that it has begun; nothing if it is imported already."""
    if "torch" not in sys.modules and is_first_process():
        sys.meta_path.insert(0, _BeforeTorch())

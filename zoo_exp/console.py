"""The console that every command prints to."""

import os
import sys
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

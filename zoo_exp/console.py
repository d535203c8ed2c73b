"""The console that every command prints to."""

from typing import Any

from rich.console import Console


def plain_console(**options: Any) -> Console:
    """A rich console that prints text as it is: names, paths, questions and responses are data, not markup.

    Args:
        options: of `rich.console.Console`, such as `stderr=True`.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)

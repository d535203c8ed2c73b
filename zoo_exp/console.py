"""The console that every command prints to."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

from rich.console import Console

UNBOUNDED = 10_000
"""Characters of a line that a program reads."""
LEAST = 30
"""Characters that the last column of a table needs beside the others."""
COMMAND = re.compile(r"(?:\w+=\S* )?python -m zoo_exp ")
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")


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


def columns(otherwise: int = UNBOUNDED) -> int:
    """Characters of a line: those of the terminal or of COLUMNS; `otherwise` where a program reads the output."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size((80, 24)).columns
    return otherwise


def aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of aligned columns, of at most `width` characters where its words allow it.

    The last column is wrapped; where it has too little space, as for a long path, it stands below the others.

    >>> aligned([("name", "what"), ("zoo", "drops tokens")], 80)
    ['name  what', 'zoo   drops tokens']
    >>> aligned([("name", "what"), ("a long name", "drops many tokens")], 26)
    ['name', '    what', 'a long name', '    drops many tokens']
    """
    sizes = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    indent = sum(sizes) + 2 * len(sizes)
    texts = [row[-1] for row in rows]
    needed = max(min(LEAST, max(map(len, texts))), *(len(word) for text in texts for word in text.split()), 0)
    below = width - indent < needed
    start = 4 if below else indent
    lines = []
    for row in rows:
        first = "".join(f"{text:<{size}}  " for text, size in zip(row[:-1], sizes, strict=True))
        parts = wrapped(row[-1], max(LEAST // 2, width - start)) or [""]
        if not below:
            lines.append((first + parts.pop(0)).rstrip())
        elif first.strip():
            lines.append(first.rstrip())
        lines += [" " * start + part for part in parts if part]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    r"""Lines of whole words: names, paths and addresses are never cut; a command goes on after a backslash.

    >>> wrapped("python -m zoo_exp run +exp=sanity limit=20", 32)
    ['python -m zoo_exp run \\', '    +exp=sanity limit=20']
    """
    if not COMMAND.match(text) or len(text) <= width:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
    lines = [""]
    for word in WORD.findall(text):  # quotes keep their spaces
        if lines[-1].strip() and len(lines[-1]) + len(word) + 3 > width:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


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

"""The texts of --help in the width of the terminal; they are written in the docstrings of the commands.

A line that begins at the margin is prose and is filled. An indented line is a command, or a term and its meaning with
two or more spaces between: the meaning is wrapped in its column, or stands below where the column is narrow.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from zoo_exp.console import wrapped

TERM = re.compile(r"^(?P<term> +\S.*?)(?P<gap> {2,})(?P<meaning>\S.*)$")
BELOW = 6
"""Indentation of a meaning that stands below its term."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions and epilogs to the terminal; what fits stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line if line else "" for line in fitted(text, width))


def fitted(text: str, width: int) -> list[str]:
    r"""Lines of at most `width` characters, except for words that are longer.

    >>> fitted("Short.\n\nKeys are:\n  a=N  first of many units\n  b=N  second", 22)
    ['Short.', '', 'Keys are:', '  a=N  first of many', '       units', '  b=N  second']
    >>> fitted("  python -m zoo_exp run +exp=sanity limit=20", 34)
    ['  python -m zoo_exp run \\', '      +exp=sanity limit=20']
    """
    lines: list[str] = []
    for (blank, indented), block in groupby(text.splitlines(), lambda line: (not line, line.startswith(" "))):
        found = list(block)
        if blank or all(len(line) <= width for line in found):
            lines += found
        elif indented:
            lines += _terms(_joined(found), width)
        else:
            lines += wrapped(" ".join(found), width)
    return lines


def _joined(lines: Sequence[str]) -> list[str]:
    """Lines with those that continue a meaning, in its column, joined to the first."""
    found: list[str] = []
    column = 0
    for line in lines:
        if column and len(line) - len(line.lstrip()) == column:
            found[-1] += f" {line.strip()}"
            continue
        match = TERM.match(line)
        column = match.start("meaning") if match else 0
        found.append(line)
    return found


def _terms(lines: Sequence[str], width: int) -> Iterator[str]:
    """A block of indented lines."""
    matches = [TERM.match(line) for line in lines]
    column = max((match.start("meaning") for match in matches if match), default=0)
    beside = column <= width // 2
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            yield from _indented(line, width)
        elif beside:
            first, *rest = wrapped(match["meaning"], width - column)
            yield f"{match['term']:<{column}}{first}"
            yield from (" " * column + part for part in rest)
        else:
            yield from _indented(match["term"], width)
            yield from (" " * BELOW + part for part in wrapped(match["meaning"], width - BELOW))


def _indented(line: str, width: int) -> Iterator[str]:
    """A line wrapped below its indentation."""
    margin = len(line) - len(line.lstrip())
    first, *rest = wrapped(line.strip(), width - margin)
    yield " " * margin + first
    yield from (" " * margin + part for part in rest)

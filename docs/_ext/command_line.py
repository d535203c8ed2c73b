"""The reference of the command line as Markdown, from the argparse parsers themselves."""

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from zoo_exp import cli

WIDTH = "100"
"""Columns of usage lines."""


def reference() -> str:
    """One section per command, in the order of `python -m zoo_exp --help`."""
    with mock.patch.dict(os.environ, {"COLUMNS": WIDTH}):
        _, commands = cli.parsers(tuple(cli.COMMANDS))
        return "\n".join(line for name in cli.COMMANDS for line in _section(name, commands.choices[name], 2))


def _section(name: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {name}", "", parser.description or "", "")
    yield from ("```text", parser.format_usage().removeprefix("usage: ").rstrip(), "```", "")
    yield from _table(parser)
    if parser.epilog:
        yield from ("```text", parser.epilog.strip("\n"), "```", "")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below, inner in action.choices.items():
                yield from _section(f"{name} {below}", inner, level + 1)


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    shown = [
        action
        for action in parser._actions
        if action.help not in (None, argparse.SUPPRESS)
        and not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    ]
    if not shown:
        return
    yield from ("| argument | meaning |", "| :-- | :-- |")
    for action in shown:
        names = ", ".join(f"`{name}`" for name in _names(action, formatter))
        meaning = " ".join(formatter._expand_help(action).split())
        yield f"| {_cell(names)} | {_cell(meaning)} |"
    yield ""


def _names(action: argparse.Action, formatter: argparse.HelpFormatter) -> list[str]:
    if not action.option_strings:
        return [formatter._metavar_formatter(action, action.dest)(1)[0]]
    value = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper())}"
    return [f"{option}{value}" for option in action.option_strings]


def _cell(text: str) -> str:
    r"""Text as a table cell: nothing of it is markup except code spans.

    >>> _cell("`A|B`"), _cell("<=64 *mean*")
    ('`A\\|B`', '&lt;=64 \\*mean\\*')
    """
    parts = text.replace("|", "\\|").split("`")
    plain = [
        part.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[") if number % 2 == 0 else part
        for number, part in enumerate(parts)
    ]
    return "`".join(plain)

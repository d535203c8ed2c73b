"""List what there is: selectors, tasks, models or exps, one line each.

Examples:
  python -m zoo_exp list selectors
  python -m zoo_exp list exps --config-dir my_configs
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from zoo_exp._cli.run import add_config_dir
from zoo_exp.core.errors import UnknownNameError

Rows = list[tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to list."""
    parser.add_argument("what", metavar="selectors|tasks|models|exps")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=list_names)


def list_names(args: argparse.Namespace) -> int:
    """Print one aligned line for each name."""
    from zoo_exp.config.folders import search_path

    if args.what not in LISTINGS:
        raise UnknownNameError("listing", args.what, LISTINGS)
    head, rows = LISTINGS[args.what](search_path(args.config_dir))
    # One line each where a program reads them.
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000
    print("\n".join(table([head, *rows], width)))
    return 0


def table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned lines; the last column takes what is left of `width` characters and continues below itself.

    >>> table([("name", "what"), ("zoo", "drops tokens")], 80)
    ['name  what', 'zoo   drops tokens']
    """
    sizes = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    indent = sum(sizes) + 2 * len(sizes)
    lines = []
    for row in rows:
        start = "".join(f"{text:<{size}}  " for text, size in zip(row[:-1], sizes, strict=True))
        parts = textwrap.wrap(row[-1], max(40, width - indent)) or [""]
        lines.append((start + parts[0]).rstrip())
        lines += [" " * indent + part for part in parts[1:]]
    return lines


def _selectors(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp import selectors
    from zoo_exp.config.folders import choices

    infos = selectors.describe()
    rows: Rows = [
        (info.name, info.paper, ", ".join(sorted(info.needs)) or "-", info.summary) for info in infos
    ]
    known = {info.name for info in infos}
    ready = [(name, path) for name, path in choices("selector", folders).items() if name not in known]
    rows += [(name, "-", "-", f"ready-made arm: {_summary(path)}") for name, path in ready]
    return ("name", "paper", "needs", "what it keeps"), rows


def _tasks(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp import tasks
    from zoo_exp.config.folders import choices

    rows: Rows = [(info.name, info.metric, info.summary) for info in tasks.describe()]
    rows += [(name, "(a set)", _summary(path)) for name, path in choices("task", folders).items()]
    return ("name", "metric", "what it asks"), rows


def _models(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp.config.folders import choices, read

    rows: Rows = []
    for name, path in choices("model", folders).items():
        content = read(path)
        rows.append((name, str(content.get("family", "")), str(content.get("path", "")), _summary(path)))
    return ("name", "family", "checkpoint", "what it is"), rows


def _exps(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp.config.folders import choices, read

    rows: Rows = []
    for name, path in choices("exp", folders).items():
        rows.append((name, str(read(path).get("question", ""))))
        rows.append(("", path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")))
    return ("name", "question, and the command that asks it"), rows


def _summary(path: Path) -> str:
    """The comment in the first line of a configuration file."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


LISTINGS = {"selectors": _selectors, "tasks": _tasks, "models": _models, "exps": _exps}

"""List selectors, tasks, models, exps or runs.

A terminal wraps the descriptions; in a pipe each has one line (an exp has one for its question and one per command).
`list selectors NAME` shows the options of one selector (selector.options.KEY=VALUE) and their defaults.
`list runs [DIR]` shows the run folders below DIR (default: runs), newest first: recorded and expected answers, size;
then the folders that `bench` has written.

Examples:
  python -m zoo_exp list selectors
  python -m zoo_exp list selectors zoo
  python -m zoo_exp list exps --config-dir my_configs
  python -m zoo_exp list runs
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo_exp._cli.run import add_config_dir
from zoo_exp.console import aligned, columns, wrapped
from zoo_exp.errors import InvalidValueError, UnknownNameError

Rows = list[tuple[str, ...]]
RUNS = "runs"
SMALL = re.compile(r" model=embedded.*$")
"""End of the first line in experiment files: the embedded model that answers them on any machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", metavar="selectors|tasks|models|exps|runs")
    parser.add_argument(
        "which",
        nargs="?",
        metavar="NAME|DIR",
        help="list selectors: the selector whose options are shown; list runs: parent of the run folders",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=list_names)


def list_names(args: argparse.Namespace) -> int:
    """Print one aligned line for each name."""
    from zoo_exp.config.folders import search_path

    if args.what == RUNS:
        return _list_runs(Path(args.which or "runs"))
    if args.what not in LISTINGS:
        raise UnknownNameError("listing", args.what, [*LISTINGS, RUNS])
    if args.which is not None and args.what == "selectors":
        return _options(args.which)
    if args.which is not None:
        raise InvalidValueError(
            f"list {args.what} takes no further word; list selectors {args.which} shows the options of a selector, "
            f"list runs {args.which} the runs of a folder"
        )
    head, rows = LISTINGS[args.what](search_path(args.config_dir))
    _print([head, *rows])
    return 0


def _print(rows: Rows) -> None:
    """Print aligned lines, wrapped to the terminal."""
    print("\n".join(aligned(rows, columns())))


def _say(sentence: str) -> None:
    print("\n".join(wrapped(sentence, columns())))


def _options(name: str) -> int:
    """Print one line per option of a selector."""
    from zoo_exp import selectors

    lines = selectors.option_lines(name)
    resolved, preset = selectors.resolve(name)
    _say(selectors.describe(resolved)[0].summary)
    if preset:
        _say(f"Preset of {resolved}: {', '.join(f'{key}={value}' for key, value in preset.items())}")
    _say(
        f"An option is set by selector.options.KEY=VALUE, such as selector.options.{'='.join(lines[-1][:2])}"
    )
    print()
    _print([("option", "default", "meaning"), *lines])
    return 0


def _list_runs(above: Path) -> int:
    """Print one line per run folder."""
    from zoo_exp.runs import inventory

    found, notes = inventory.entries(above)
    rows: Rows = [("date", "answers", "size", "model", "experiment", "run")]
    for one in found:
        expected = "?" if one.expected is None else str(one.expected)
        date, size = one.when.strftime("%Y-%m-%d %H:%M"), inventory.bytes_text(one.size)
        rows.append((date, f"{one.answers}/{expected}", size, one.model, one.name, str(one.path)))
    benches = inventory.benches(above)
    for path, when, size in benches:
        name = path.parent.parent.name
        rows.append(
            (when.strftime("%Y-%m-%d %H:%M"), "bench", inventory.bytes_text(size), "", name, str(path))
        )
    _print(rows)
    for note in notes:
        print(note, file=sys.stderr)
    if not found and not benches:
        print(f"no runs in {above}: create one with python -m zoo_exp run")
    return 0


def _selectors(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp import selectors
    from zoo_exp.config.folders import built_in, choices, read

    rows: Rows = [
        (info.name, _selector(info.summary, info.paper, info.needs)) for info in selectors.describe()
    ]
    known = {name for name, _ in rows}
    for name, path in choices("selector", folders).items():
        if name not in known:
            content: dict[str, Any] = read(path)
            selector, options = str(content.get("selector", name)), content.get("options") or {}
            (base,) = selectors.describe(selector)
            # Options may change the required inputs. Those of presets do not (tested), which avoids importing torch.
            needs = base.needs if path.parents[1] == built_in() else selectors.get(selector, **options).needs
            rows.append((name, _selector(f"Preset: {_summary(path)}", base.paper, needs)))
    return ("name", "description [source; required inputs]"), rows


def _selector(summary: str, paper: str, needs: Iterable[str]) -> str:
    """One cell, since separate columns would leave no space for the description in 80 characters."""
    looks = ", ".join(sorted(needs))
    return f"{summary} [{paper}{'; ' if looks else ''}{looks}]"


def _tasks(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp import tasks
    from zoo_exp.config.folders import choices

    rows: Rows = [(info.name, info.metric, info.summary) for info in tasks.describe()]
    rows += [(name, "(a set)", _summary(path)) for name, path in choices("task", folders).items()]
    return ("name", "metric", "description"), rows


def _models(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp.config.folders import choices, read

    rows: Rows = []
    for name, path in choices("model", folders).items():
        content = read(path)
        rows.append((name, f"{_summary(path)} [{content.get('family', '')}; {content.get('path', '')}]"))
    return ("name", "description [family; checkpoint]"), rows


def _exps(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    from zoo_exp.config.folders import choices, read

    rows: Rows = []
    for name, path in choices("exp", folders).items():
        content = read(path)
        rows.append((name, str(content.get("question", ""))))
        rows += [("", command) for command in _commands(_summary(path), "defaults" in content)]
    return ("name", "question and command"), rows


def _commands(first: str, large: bool) -> list[str]:
    """Commands of an experiment from its first line; if its own model is a large one, also without the embedded one."""
    return [f"{SMALL.sub('', first)}  # GPU", f"{first}  # any machine"] if large else [first]


def _summary(path: Path) -> str:
    """The comment in the first line of a configuration file."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


LISTINGS = {"selectors": _selectors, "tasks": _tasks, "models": _models, "exps": _exps}

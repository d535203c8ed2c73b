"""Delete run folders, after a question that names their size.

Refused are folders that are not runs (no experiment.json), links, and runs that a process is writing to. Links inside a
run are deleted, what they lead to is not.

Examples:
  python -m zoo_exp clean runs/custom/0a1b2c3d4e5f
  python -m zoo_exp clean runs/ablation_fusion/*.before* --yes
"""

import argparse
import sys
from pathlib import Path

from zoo_exp.errors import InvalidValueError
from zoo_exp.wording import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, runs/NAME/ID (list runs)"
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=clean)


def clean(args: argparse.Namespace) -> int:
    """Check all folders, ask once, delete."""
    from zoo_exp.runs import inventory

    runs = list(dict.fromkeys(args.runs))
    for run in runs:
        inventory.check_removable(run)
    sizes = {run: inventory.size_of(run) for run in runs}
    for run, size in sizes.items():
        print(f"{inventory.bytes_text(size):>9}  {run}")
    total = inventory.bytes_text(sum(sizes.values()))
    what = f"{counted(len(runs), 'run')}, {total}"
    if not args.yes:
        if not sys.stdin.isatty():
            raise InvalidValueError(f"nothing deleted ({what}): add --yes to delete without being asked")
        if input(f"delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing deleted")
            return 0
    for run in runs:
        inventory.remove(run)
    print(f"deleted {what}")
    return 0

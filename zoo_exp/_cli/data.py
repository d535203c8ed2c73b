"""Check benchmark files: number of rows, columns, a checksum, and one decoded image.

--root has one folder per benchmark (named after the task or its family) with parquet files in the official columns.
Without --root the data set comes from the hub or its local cache; embedded tasks need no files.

Examples:
  python -m zoo_exp data check embedded_pope
  python -m zoo_exp data check pope --root benchmarks_on_disk
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp._cli.run import note
from zoo_exp.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from zoo_exp.tasks.check import DataReport

ACTIONS = ("check",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action, the task, and the location of its files."""
    parser.add_argument("action", metavar="check")
    parser.add_argument("task", metavar="TASK", help="the benchmark (python -m zoo_exp list tasks)")
    parser.add_argument(
        "--root", metavar="DIR", type=Path, help="folder with one folder per benchmark (data.root of `run`)"
    )
    parser.add_argument(
        "--complete", action="store_true", help="fail if rows of the official split are missing"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=data)


def data(args: argparse.Namespace) -> int:
    """Check the data of one task; with `--complete`, missing rows are an error."""
    from zoo_exp import tasks
    from zoo_exp.tasks.check import check

    if args.action not in ACTIONS:
        raise UnknownNameError("action of data", args.action, ACTIONS)
    task = tasks.get(args.task)
    if args.root is None and task.source.kind != "embedded":
        from zoo_exp.tasks import hub

        problem = hub.go_offline_if_unreachable()
        if problem:
            note(problem)
    found = check(task, args.root)
    print("\n".join(report(found)))
    if args.complete and not found.complete:
        raise InvalidValueError(
            f"{found.task} has {found.rows} of {found.expected_rows} rows: download it again"
        )
    return 0


def report(found: "DataReport") -> list[str]:
    """The report as lines of text."""
    width, height = found.image_size
    rows = f"rows      {found.rows}"
    if found.expected_rows is not None:
        rows += f" of {found.expected_rows}"
    lines = [
        f"task      {found.task}",
        rows,
        f"columns   {', '.join(found.columns)}",
        f"image     first image decoded, {width} x {height} pixels",
    ]
    if found.checksum:
        lines.append(f"sha256    {found.checksum} over {found.files} file(s)")
    part = "incomplete: results on a part of the benchmark are not comparable with published ones"
    lines.append("complete" if found.complete else part)
    return lines

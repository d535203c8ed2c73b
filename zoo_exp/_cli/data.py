"""Check benchmark files: number of rows, columns, a checksum, and one decoded image.

--root has one folder per benchmark (named after the task or its family) with parquet files in the official columns.
Without --root the data set comes from the hub or its local cache; embedded tasks need no files. Of your own file of
questions (docs/adding_a_task.md), every row is checked and every image decoded.

Examples:
  python -m zoo_exp data check my.jsonl
  python -m zoo_exp data check embedded_pope
  python -m zoo_exp data check pope --root benchmarks_on_disk
  python -m zoo_exp data check --all --root benchmarks_on_disk     the nine tasks of the paper's tables
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp._cli.run import note
from zoo_exp.errors import InvalidValueError, UnknownNameError, ZooExpError

if TYPE_CHECKING:
    from zoo_exp.tasks.check import DataReport

ACTIONS = ("check",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action, the task, and the location of its files."""
    parser.add_argument("action", metavar="check")
    parser.add_argument(
        "task", metavar="TASK", nargs="?", help="the benchmark (python -m zoo_exp list tasks), or FILE.jsonl"
    )
    parser.add_argument(
        "--all", action="store_true", help="check the tasks of the paper's tables; one line for each"
    )
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
    if args.all:
        if args.task is not None or args.root is None:
            raise InvalidValueError(
                "data check --all checks every task of the tables below one folder: data check --all --root DIR"
            )
        return check_all(args.root, args.complete)
    if args.task is None:
        raise InvalidValueError("data check needs a task (python -m zoo_exp list tasks), or --all --root DIR")
    task = tasks.given(args.task)
    if args.root is None and task.source.kind == "hub":
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


def check_all(root: Path, complete: bool) -> int:
    """Check the tasks of the paper's tables below one folder and print a line for each.

    Returns:
        0, or 2 if a task cannot be used; with `complete` also if one lacks rows.
    """
    from zoo_exp import presets, tasks
    from zoo_exp.tasks.check import check

    names = (presets.find("model", "llava15_7b") or {})["default_tasks"]
    if not root.is_dir():
        raise InvalidValueError(
            f"--root {root}: no such folder; give a folder with one subfolder per benchmark"
        )
    failed = False
    print(f"{'task':<24}{'rows':>8}{'official':>10}  image        status")
    for name in names:
        try:
            found = check(tasks.get(name), root)
        except ZooExpError as error:
            print(f"{name:<24}{'-':>8}{tasks.get(name).source.rows or '-':>10}  {'-':<11}  error: {error}")
            failed = True
            continue
        size = "{} x {}".format(*found.image_size)
        status = "complete" if found.complete else "incomplete"
        print(f"{name:<24}{found.rows:>8}{found.expected_rows or '-':>10}  {size:<11}  {status}")
        failed |= complete and not found.complete
    return 2 if failed else 0


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
        f"image     {found.decoded} decoded, the first has {width} x {height} pixels"
        if found.decoded > 1
        else f"image     first image decoded, {width} x {height} pixels",
    ]
    if found.checksum:
        lines.append(f"sha256    {found.checksum} over {found.files} file(s)")
    part = "incomplete: results on a part of the benchmark are not comparable with published ones"
    lines.append("complete" if found.complete else part)
    return lines

"""Compare two arms question by question: paired differences, exact test, and the questions that changed.

RUN is a run folder (runs/NAME/ID), or a folder above it. One run: --arms names an arm and those that it is compared
with; a single arm is compared with every other arm of its budget. Two runs (other models, options, experiments): every
arm that both have is compared, or those that --arms names, one of each run. A folder with several runs, as a sweep
leaves it, stands for the newest run that has the arm.

Examples:
  python -m zoo_exp compare runs/sanity --arms "zoo multiply @16" "random @16"
  python -m zoo_exp compare runs/table1/A runs/table1/B                every arm on two models
  python -m zoo_exp compare runs/mine --arms "mine @16" "divprune @16" --changed 20 --masks
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from zoo_exp.statistics.compare_runs import Comparison

CHANGED = 5
"""Questions shown by default."""
LARGEST = 100_000
MOST_PAIRS = 3
"""With more pairs of arms, only the overview is printed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one or two run folders")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[],
        metavar="ARM",
        help='labels as in the table, such as "zoo multiply @16"',
    )
    parser.add_argument(
        "--changed",
        type=int,
        default=None,
        metavar="N",
        help=f"show N questions on which the scores differ (default: {CHANGED} for one pair of arms; 0: none)",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="draw the kept tokens of these questions (compare_masks.png in each run folder)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON and nothing else")
    form.add_argument("--csv", action="store_true", help="print CSV and nothing else")
    form.add_argument("--md", action="store_true", help="print Markdown and nothing else")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=compare)


def compare(args: argparse.Namespace) -> int:
    """Print the comparison."""
    if args.changed is not None and not 0 <= args.changed <= LARGEST:
        raise InvalidValueError(f"--changed {args.changed}: give a number of questions from 0 to {LARGEST}")
    from zoo_exp.runs.load import find_runs

    find_runs(args.runs)  # a missing folder is refused before slow imports
    from zoo_exp.console import plain_console
    from zoo_exp.report.renderers import markdown, print_table
    from zoo_exp.report.run_document import csv_of
    from zoo_exp.report.tables_paired import all_notes, document, flat, paired_tables
    from zoo_exp.statistics.compare_runs import compare_runs

    found = compare_runs(args.runs, args.arms)
    changed = args.changed if args.changed is not None else CHANGED if len(found.pairs) == 1 else 0
    drawn = _draw(found, changed) if args.masks else []
    if args.json:
        print(json.dumps(document(found, changed), indent=1, allow_nan=False, ensure_ascii=False))
    elif args.csv:
        print(csv_of(flat(found)), end="")
    elif args.md:
        print("\n\n".join(markdown(table) for table in paired_tables(found, changed)))
    else:
        console = plain_console()
        tables = paired_tables(found, changed)
        if len(found.pairs) > MOST_PAIRS:
            tables = tables[:1]
        for number, table in enumerate(tables):
            if number:
                console.print()
            print_table(table, console)
        if len(found.pairs) > MOST_PAIRS:
            for note in all_notes(found):
                console.print(f"Note: {note}")
            console.print("Each task: --md, --csv or --json, or --arms with fewer arms")
    for path in drawn:
        print(f"masks: {path}", file=sys.stderr if args.json or args.csv or args.md else sys.stdout)
    return 0


def _draw(found: "Comparison", changed: int) -> list[Path]:
    """Draw the changed questions of all pairs, one figure per run, with the arms that are compared."""
    from zoo_exp.evaluation.mask_drawing import Drawing
    from zoo_exp.report.mask_figures import draw_questions

    if not changed:
        raise InvalidValueError("--masks draws the questions that changed: add --changed N")
    wanted: dict[str, list[str]] = {}
    for pair in found.pairs:
        for task, sample in pair.changes.frame(changed)[["task", "sample_id"]].itertuples(index=False):
            wanted.setdefault(task, []).append(sample)
    wanted = {task: list(dict.fromkeys(samples)) for task, samples in wanted.items()}
    paths = []
    for run in found.runs if wanted else []:
        arms = [place.row.row for pair in found.places for place in pair if place.run == run.folder]
        Drawing(run.folder).draw(wanted)
        path = run.folder / "compare_masks.png"
        draw_questions(run.folder, wanted, list(dict.fromkeys(arms)), path)
        paths.append(path)
    return paths

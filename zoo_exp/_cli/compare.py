"""Compare two arms question by question: paired differences, exact test, and the questions that changed.

RUN is a run folder (runs/NAME/ID), or a folder above it. One run: --arms names an arm and those that it is compared
with; a single arm is compared with every other arm of its budget. Two runs (other models, options, experiments): every
arm that both have is compared, or those that --arms names, one of each run. A folder with several runs, as a sweep
leaves it, stands for the newest run that has the arm.

Examples:
  python -m zoo_exp compare runs/sanity --arms "zoo multiply @16" "random @16"
  python -m zoo_exp compare runs/table1/A runs/table1/B                every arm on two models
  python -m zoo_exp compare runs/mine --arms "mine @16" "divprune @16" --changed 20
"""

import argparse
import json
from pathlib import Path

from zoo_exp.errors import InvalidValueError

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
        help="draw the kept tokens of these questions (compare.png in the run folder)",
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
    from zoo_exp.console import plain_console
    from zoo_exp.report.renderers import markdown, print_table
    from zoo_exp.report.run_document import csv_of
    from zoo_exp.report.tables_paired import all_notes, document, flat, paired_tables
    from zoo_exp.statistics.compare_runs import compare_runs

    found = compare_runs(args.runs, args.arms)
    changed = args.changed if args.changed is not None else CHANGED if len(found.pairs) == 1 else 0
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
    return 0

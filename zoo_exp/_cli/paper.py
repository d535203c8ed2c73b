"""Check the paper's numbers against themselves, and list what does not agree.

`audit` recomputes every printed average from its row, compares poster and supplement cell by cell, looks for rows that
stand twice, and puts the sizes of the model into the FLOP formulas. It reads experiments/published.csv.

Examples:
  python -m zoo_exp paper audit
"""

import argparse
import textwrap

from zoo_exp.errors import UnknownNameError

ACTIONS = ("audit",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    parser.add_argument("action", metavar="audit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=paper)


def paper(args: argparse.Namespace) -> int:
    """Print every check with its findings."""
    if args.action not in ACTIONS:
        raise UnknownNameError("action of paper", args.action, ACTIONS)
    from zoo_exp.report.audit import audit

    result = audit()
    for topic, count in result.checked.items():
        mine = [finding.text for finding in result.findings if finding.topic == topic]
        print(f"{topic}: {count} checked, {len(mine)} to note")
        for text in mine:
            print(textwrap.fill(text, 110, initial_indent="  - ", subsequent_indent="    "))
    return 0

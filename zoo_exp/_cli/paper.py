"""Check the consistency of the paper's published numbers and list the discrepancies.

`audit` recomputes every printed average from its row, compares poster and supplement cell by cell, finds duplicated
rows, and evaluates the FLOPs formulas at the model's sizes. It reads experiments/published.csv.

Examples:
  python -m zoo_exp paper audit
"""

import argparse

from zoo_exp.console import columns, wrapped
from zoo_exp.errors import UnknownNameError

ACTIONS = ("audit",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action."""
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
        print(f"{topic}: {count} checked, {len(mine)} findings")
        for text in mine:
            print("  - " + "\n    ".join(wrapped(text, columns(110) - 4)))
    return 0

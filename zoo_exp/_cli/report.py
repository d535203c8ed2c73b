"""Report runs: one HTML page, Markdown, LaTeX, CSV tables and figures (PNG, SVG). Needs neither model nor GPU.

RUN is a run folder (runs/NAME/ID), or a folder above it: runs/NAME selects its newest run, runs the newest run of
each experiment; with --all, every run, such as all points of a sweep. Several runs also stand side by side in one
table, an arm per row and a model or run per column, with paired differences.

Examples:
  python -m zoo_exp report runs/ablation_fusion
  python -m zoo_exp report runs/sanity runs/low_rank --out report
  python -m zoo_exp report runs/mine --focus "mine @16"      compare this arm with the others; where it succeeds, fails
  python -m zoo_exp report runs/powers --all                 every point of a sweep
  python -m zoo_exp report runs/ablation_fusion --wandb      also create a W&B report
  python -m zoo_exp report --readme experiments/sanity       write the tables of a README again from its csv files
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from zoo_exp.errors import InvalidValueError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folder, or a folder above")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder (default: report inside the run folder; ./report for several runs)",
    )
    parser.add_argument(
        "--focus",
        metavar="ARM",
        help="the arm that the report is about: paired table, successes and failures",
    )
    parser.add_argument(
        "--all", action="store_true", help="of a folder above, every run instead of the newest"
    )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="allow runs whose model settings or data differ, and mark them",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="write the marked tables of DIR/README.md again from the csv files that they name (docs/statistics.md)",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="also create a W&B report (offline: its specification is written to a file)",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=report)


def report(args: argparse.Namespace) -> int:
    """Build the report and print its path, or write the tables of READMEs."""
    if bool(args.runs) == bool(args.readme):
        raise InvalidValueError(
            "report takes run folders, or --readme with folders of READMEs: give one of them"
        )
    if args.readme:
        return _readmes(args.readme)
    from zoo_exp.runs.load import find_runs, passed_over

    folders = find_runs(args.runs, every=args.all)  # a missing folder is refused before slow imports
    from zoo_exp.console import plain_console
    from zoo_exp.report.build import build
    from zoo_exp.report.drawing import spare_processes

    for line in [] if args.all else passed_over(folders, args.runs):
        print(line)
    processes = spare_processes(len(folders))
    page = build(
        folders,
        args.out,
        args.mixed,
        processes=processes,
        console=plain_console(stderr=True),
        focus=args.focus,
        tables=plain_console(),
    )
    print(f"report: {page}")
    if args.wandb:
        from zoo_exp.tracking.wandb_report import make_report

        print(make_report(folders, page.parent))
    return 0


def _readmes(folders: Sequence[Path]) -> int:
    from zoo_exp.report.readme import fill_file

    for folder in folders:
        readme = folder / "README.md"
        print(f"{readme}: {'written' if fill_file(readme) else 'unchanged'}")
    return 0

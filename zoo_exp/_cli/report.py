"""Write a report on runs: one HTML page, Markdown, LaTeX, csv and figures. It needs no model and no GPU.

RUN is a run folder (runs/NAME/ID), or a folder above: runs/NAME stands for its newest run, runs for the newest
run of each experiment.

Examples:
  python -m zoo_exp report runs/ablation_fusion
  python -m zoo_exp report runs/sanity runs/low_rank --out report
  python -m zoo_exp report runs/ablation_fusion --wandb     a W&B report as well
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, where the report goes, and W&B."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder above")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: report, inside a single run)"
    )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="report runs together whose model settings or data differ, marked",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="make a W&B report: saved where W&B is online, its specification in a file elsewhere",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=report)


def report(args: argparse.Namespace) -> int:
    """Build it and say where it lies."""
    from zoo_exp.console import plain_console
    from zoo_exp.report.build import build
    from zoo_exp.report.drawing import spare_processes
    from zoo_exp.runs.load import find_runs, passed_over

    folders = find_runs(args.runs)
    for line in passed_over(folders, args.runs):
        print(line)
    processes = spare_processes(len(folders))
    page = build(folders, args.out, args.mixed, processes=processes, console=plain_console(stderr=True))
    print(f"report: {page}")
    if args.wandb:
        from zoo_exp.tracking.wandb_report import make_report

        print(make_report(folders, page.parent))
    return 0

"""Draw the kept tokens of any questions of a run, from what the run recorded; no model is needed.

A run records the kept tokens of every question. This command reads the images of the questions from the task's data
again, adds the masks to the run folder, where `report` shows them, and draws them as one PNG.

Examples:
  python -m zoo_exp masks runs/sanity --samples test-00034-0,test-00051-0
  python -m zoo_exp masks runs/sanity --task embedded_pope --samples popular/230 --arms "zoo multiply @16" "random @16"
"""

import argparse
from pathlib import Path

from zoo_exp.errors import InvalidValueError
from zoo_exp.wording import counted

MOST = 200
"""Questions that one command draws."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a folder above")
    parser.add_argument(
        "--samples", required=True, metavar="ID,ID", help="ids of questions, as in records.csv and compare"
    )
    parser.add_argument(
        "--task", metavar="TASK", help="only this task (default: every task that has such a question)"
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help="columns of the figure (default: full and the smallest budget)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="the figure (default: masks_samples.png in the run folder)",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=masks)


def masks(args: argparse.Namespace) -> int:
    """Draw, and print where."""
    samples = list(dict.fromkeys(text.strip() for text in args.samples.split(",") if text.strip()))
    if not 1 <= len(samples) <= MOST:
        raise InvalidValueError(
            f"--samples: give between 1 and {MOST} ids, separated by commas; got {len(samples)}"
        )
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise InvalidValueError(f"--out {args.out}: give the name of a PNG file, such as masks.png")
    from zoo_exp.runs import folder
    from zoo_exp.runs.asked import find
    from zoo_exp.runs.load import find_runs

    runs = find_runs([args.run])
    if len(runs) > 1:
        raise InvalidValueError(f"{args.run} holds runs of {len(runs)} experiments: give one of them")
    wanted = find(runs[0], samples, args.task)
    from zoo_exp.evaluation.mask_drawing import Drawing  # imports torch
    from zoo_exp.report.mask_figures import draw_questions

    Drawing(runs[0]).draw(wanted)
    path = args.out or folder.gallery(runs[0], "samples")
    shown = draw_questions(runs[0], wanted, args.arms, path)
    print(f"masks of {counted(shown, 'question')}: {path}")
    return 0

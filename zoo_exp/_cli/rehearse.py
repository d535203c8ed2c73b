"""Rehearse experiments: run each on one question, and check prompts, token counts and generation on the way.

Without model.path, experiments on published models run on slim checkpoints: the published architecture, tiles, depth
and special tokens with small widths and random weights. Without data.root they read rows that are made here, in the
official folders and columns. The numbers mean nothing; the checks do. With your own paths it is the check before a GPU
is booked.

Examples:
  python -m zoo_exp rehearse
  python -m zoo_exp rehearse +exp=table1_llava15_7b
  python -m zoo_exp rehearse +exp=table1_llava15_7b model.path=checkpoints/llava data.root=benchmarks limit=2
"""

import argparse
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Experiments and overrides."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="+exp=NAME, once or more; any override of `run`"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=rehearse)


def rehearse(args: argparse.Namespace) -> int:
    """Rehearse the named experiments, or all; 0 if every check holds, else 1."""
    from zoo_exp.rehearsal import rehearsing as room

    names = [text.partition("=")[2] for text in args.overrides if text.lstrip("+").startswith("exp=")]
    given = [text for text in args.overrides if not text.lstrip("+").startswith("exp=")]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="zoo_exp_rehearsal_") as folder:
        for outcome in room.rehearse(names, given, Path(folder)):
            print(f"{'ok' if outcome.passed else 'FAILED':<8}{outcome.name}", flush=True)
            outcomes.append(outcome)
    print("\n".join(room.table(outcomes)))
    return 0 if all(outcome.passed for outcome in outcomes) else 1

"""Rehearse experiments: run each on one question, and check prompts, token counts and generation on the way.

Without model.path, experiments on published models run on slim checkpoints: the published architecture, tiles, depth
and special tokens with small widths and random weights. Without data.root they read rows that are made here, in the
official folders and columns. The numbers mean nothing; the checks do (docs/rehearsal.md). With your own paths it is the
check before a GPU is booked: every task of data.root is checked, and the cost of the whole experiment is estimated. A
model.path with settings but without weights gives a slim checkpoint with the tokenizer and processor of that folder.

The first experiment of each model family also runs in other ways, on a few of its arms: killed and resumed, by two
ranks, and, where sinfo finds SLURM, as an array. Their records must be those of one process, byte for byte.

Examples:
  python -m zoo_exp rehearse
  python -m zoo_exp rehearse +exp=table1_llava15_7b --one-process
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
    parser.add_argument("--one-process", action="store_true", help="leave out the other ways")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table there, as Markdown")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=rehearse)


def rehearse(args: argparse.Namespace) -> int:
    """Rehearse the named experiments, or all; 0 if every check holds, else 1."""
    from zoo_exp.files import write_text
    from zoo_exp.rehearsal import table
    from zoo_exp.rehearsal.rehearsing import Outcome
    from zoo_exp.rehearsal.rehearsing import rehearse as outcomes_of

    names = [text.partition("=")[2] for text in args.overrides if text.lstrip("+").startswith("exp=")]
    given = [text for text in args.overrides if not text.lstrip("+").startswith("exp=")]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="zoo_exp_rehearsal_") as folder:
        for outcome in outcomes_of(names, given, Path(folder), every_way=not args.one_process):
            print(f"{'ok' if outcome.passed else 'FAILED':<8}{outcome.name}  {outcome.where}", flush=True)
            outcomes.append(outcome)
    print("\n".join(table.table(outcomes)))
    if args.out is not None:
        write_text(args.out, "\n".join([*table.markdown(outcomes), ""]))
    return 0 if all(outcome.passed for outcome in outcomes) else 1

"""Compare token scores and kept sets across arms without generating answers.

Reports rank correlation, overlap and effective rank per image. Overrides are those of `run`. The result is
tokens.jsonl in the run folder; `report` draws it.

Examples:
  python -m zoo_exp tokens +exp=proxy_correlation
  python -m zoo_exp tokens +exp=estimators --samples 20
"""

import argparse

from zoo_exp._cli.run import add_config_dir, check_sources, check_writable
from zoo_exp.errors import InvalidValueError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides of `run`, and the number of questions."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="the overrides of `run`")
    parser.add_argument(
        "--samples", type=int, default=50, metavar="N", help="questions per task (default: 50)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=tokens)


def tokens(args: argparse.Namespace) -> int:
    """Compose the experiment, score the tokens of its images and select."""
    from zoo_exp.config.compose import compose
    from zoo_exp.config.engines import needs_transformers
    from zoo_exp.console import plain_console

    if args.samples < 1:
        raise InvalidValueError(f"--samples {args.samples}: it must be at least 1")
    experiment = compose(args.overrides, args.config_dir)
    needs_transformers(experiment.engine, "tokens")
    check_writable(experiment.out)
    check_sources(experiment)
    from zoo_exp.evaluation.token_analysis import inspect

    inspect(experiment, plain_console(), args.samples)
    return 0

"""Print the resolved configuration and the cells of an experiment as YAML without running it.

Examples:
  python -m zoo_exp show exp=ablation_fusion
  python -m zoo_exp show exp=ablation_fusion model=llava_next_7b budget=[320,160]
"""

import argparse
import shlex

from zoo_exp._cli.run import add_config_dir
from zoo_exp.errors import InvalidValueError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `show`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="exp=NAME, and any other override of `run`"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=show)


def show(args: argparse.Namespace) -> int:
    """Print the configuration that `run` would use, and one line per cell."""
    import yaml

    from zoo_exp.config.compose import compose

    if not args.overrides:
        raise InvalidValueError(
            "show needs an experiment: exp=NAME (python -m zoo_exp list exps) or overrides of `run`"
        )
    experiment = compose(args.overrides, args.config_dir)
    print(f"# python -m zoo_exp run {shlex.join(args.overrides)}")
    for budget in dict.fromkeys(arm.budget for arm in experiment.arms if arm.budget is not None):
        print(f"# budget {budget}: {budget.meaning()}")
    print(experiment.to_yaml(), end="")
    cells = [{"id": cell.id, "task": cell.task, "arms": len(cell.arms)} for cell in experiment.cells()]
    print(yaml.safe_dump({"cells": cells}, sort_keys=False, default_flow_style=None, width=200), end="")
    return 0

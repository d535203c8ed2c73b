"""Print the resolved configuration and the cells of an experiment as YAML without running it.

Each cell has its number of questions and an estimate of its time in hours and its memory in GiB; null where the data or
the model's config.json are not on this machine.

Examples:
  python -m zoo_exp show exp=ablation_fusion
  python -m zoo_exp show exp=ablation_fusion model=llava_next_7b budget=[320,160]
"""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from zoo_exp._cli.run import add_config_dir
from zoo_exp.console import columns, wrapped
from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from zoo_exp.config.experiment import Experiment

LAST_WORD = 18
"""Characters by which PyYAML exceeds a width: it breaks behind the word or value that does."""


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
    _comment(f"python -m zoo_exp run {shlex.join(args.overrides)}")
    for budget in dict.fromkeys(arm.budget for arm in experiment.arms if arm.budget is not None):
        _comment(f"budget {budget}: {budget.meaning()}")
    for sentence in experiment.left_out:
        _comment(sentence)
    print(experiment.to_yaml(min(80, columns() - LAST_WORD)), end="")
    cells, basis = _cells(experiment)
    _comment(f"hours and memory_gib: {basis}")
    print(
        yaml.safe_dump(
            {"cells": cells}, sort_keys=False, default_flow_style=None, width=columns(200) - LAST_WORD
        ),
        end="",
    )
    return 0


def _comment(text: str) -> None:
    """Print a comment of YAML."""
    print("\n".join(f"# {line}" for line in wrapped(text, columns() - 2)))


def _cells(experiment: "Experiment") -> tuple[list[dict[str, Any]], str]:
    """The cells with their costs, and what these were computed from."""
    from zoo_exp.measure import cost_estimate
    from zoo_exp.tasks import get
    from zoo_exp.tasks.data import expected_rows

    questions = {
        cell.id: expected_rows(get(cell.task), experiment.data.root, experiment.limit)
        for cell in experiment.cells()
    }
    asked = [
        cost_estimate.Asked.whole(cell, count) for cell in experiment.cells() if (count := questions[cell.id])
    ]
    found = cost_estimate.of_experiment(experiment, asked)
    costs = {} if found is None else {cost.task: cost for cost in found.cells}
    cells = []
    for cell in experiment.cells():
        cost = costs.get(cell.task)
        cells.append(
            {
                "id": cell.id,
                "task": cell.task,
                "arms": len(cell.arms),
                "questions": questions[cell.id],
                "hours": None if cost is None else float(f"{cost.seconds / 3600:.2g}"),
                "memory_gib": None if cost is None else round(cost.memory / 2**30, 1),
            }
        )
    unknown = f"unknown: no config.json of {experiment.model.path} on this machine"
    return cells, unknown if found is None else f"estimates {found.basis}"

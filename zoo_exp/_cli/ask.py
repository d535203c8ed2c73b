"""Ask one question about one image under several selectors: responses, kept tokens, times, and a figure.

Overrides are those of `run` (model, selector, budget, seed, trainer), and:
  new_tokens=32      most generated tokens (default: 128)
The question goes to the model as typed. The figure shows the kept tokens of every arm beside each other; it is
written to out/ask (default: runs/ask), or to the file of --png.

The default model ships with the package and knows its own procedural world only (python -m zoo_exp embedded samples);
for a photograph, name a model: model=llava15_7b, or model=hub model.path=ORG/NAME.

Examples:
  python -m zoo_exp ask photo.jpg "What colour is the car?" selector=[zoo,divprune] budget=64 model=llava15_7b
  python -m zoo_exp ask scene.png "How many red objects are there?"
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from zoo_exp._cli.bench import device_for
from zoo_exp._cli.run import add_config_dir, check_sources, check_writable
from zoo_exp.errors import InvalidValueError, UnknownNameError

DEFAULT_ARMS = "selector=[full,zoo,divprune]"
DEFAULT_BUDGET = "budget=['22.2%']"
SETTINGS = ("new_tokens",)
MOST_TOKENS = 4096
"""Largest `new_tokens`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Image, question, overrides and flags of `ask`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="IMAGE QUESTION key=value", help="image file, question, overrides"
    )
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="where the figure is written (default: out/ask)"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=ask)


def ask(args: argparse.Namespace) -> int:
    """Load the model, ask under every arm, print the table and write the figure."""
    from zoo_exp.config.compose import compose
    from zoo_exp.config.engines import needs_transformers
    from zoo_exp.console import plain_console
    from zoo_exp.embedded.shipped import is_shipped, own_world

    words, given = split(args.overrides)
    if len(words) != 2:
        raise InvalidValueError(
            f"ask takes an image and a question, got {len(words)} ({', '.join(words) or 'nothing'}): "
            'python -m zoo_exp ask photo.jpg "What colour is the car?"'
        )
    path, question = Path(words[0]).expanduser(), words[1]
    if path.suffix == "" and not path.exists() and Path(words[1]).is_file():
        raise InvalidValueError(f"the image comes first, then the question: ask {words[1]} {words[0]!r}")
    new_tokens, overrides = take_new_tokens(given)
    experiment = compose(with_defaults(overrides), args.config_dir)
    needs_transformers(experiment.engine, "ask")
    check_writable(
        experiment.out if args.png is None else args.png.parent, "out" if args.png is None else "--png"
    )
    if args.png is not None and args.png.is_dir():
        raise InvalidValueError(f"--png {args.png} is a folder: give a file, such as {args.png / 'kept.png'}")
    if not path.is_file():  # before anything slow
        from zoo_exp.workbench.questioner import read_image

        read_image(path)
    check_sources(replace(experiment, tasks=()))
    device = device_for(experiment.trainer.accelerator)

    from zoo_exp.evaluation.sources import load_configured
    from zoo_exp.models.unknown_words import sentence
    from zoo_exp.report.renderers import print_table
    from zoo_exp.workbench.panels import draw_panels, panel_table
    from zoo_exp.workbench.questioner import NO_GRID, Questioner, read_image

    image = read_image(path)
    arms = [replace(arm, label=arm.row) for arm in experiment.arms if not arm.seed_index]
    name, console = experiment.model.name, plain_console()
    questioner = Questioner(load_configured(experiment.model, device))
    looked = questioner.look(image, question, arms)
    questioner.warm_up(looked, arms[0])
    looked = questioner.look(image, question, arms)
    panels = questioner.ask(looked, arms, seed=experiment.seed, new_tokens=new_tokens)
    print_table(panel_table(looked, panels, name), console)
    if is_shipped(experiment.model.path):
        console.print(own_world(name), style="dim", soft_wrap=True)
    if looked.unknown:
        console.print(sentence(name, looked.unknown), style="dim", soft_wrap=True)
    moment = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    target = args.png or experiment.out / "ask" / f"{path.stem[:80]}_{moment}.png"
    if draw_panels(looked, panels, name, target):
        console.print(f"kept tokens: {target}", soft_wrap=True)
    elif looked.view is None:
        console.print(NO_GRID)
    return 0 if any(not panel.problem for panel in panels) else 2


def split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Image and question, and overrides: what begins with a key of `run` and an equals sign.

    >>> split(["a.png", "Is x=3?", "budget=16"])
    (['a.png', 'Is x=3?'], ['budget=16'])
    """
    from zoo_exp.config.overrides import KEYS

    keys = {*KEYS, *SETTINGS}
    overrides = [t for t in texts if "=" in t and t.lstrip("+").partition("=")[0].partition(".")[0] in keys]
    words = [text for text in texts if text not in overrides]
    for text in words[2:]:
        key, equals, _ = text.partition("=")
        if equals and key.isidentifier():
            raise UnknownNameError("config key", key, keys)
    return words, overrides


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """Overrides with the default arms and the default budget, unless they choose others."""
    chosen = {text.lstrip("+").partition("=")[0] for text in overrides}
    more = [] if chosen & {"exp", "selector"} else [DEFAULT_ARMS]
    return [*overrides, *more, *([] if chosen & {"exp", "budget"} else [DEFAULT_BUDGET])]


def take_new_tokens(overrides: Sequence[str]) -> tuple[int, list[str]]:
    """The value of `new_tokens=`, and the other overrides.

    Raises:
        InvalidValueError: no whole number from 1 to `MOST_TOKENS`.
    """
    from zoo_exp.models.answering import DEFAULT_NEW_TOKENS

    mine = [text for text in overrides if text.lstrip("+").startswith("new_tokens=")]
    value = mine[-1].partition("=")[2] if mine else str(DEFAULT_NEW_TOKENS)
    if not value.isdecimal() or not 1 <= int(value) <= MOST_TOKENS:
        raise InvalidValueError(f"new_tokens={value}: give a whole number from 1 to {MOST_TOKENS}")
    return int(value), [text for text in overrides if text not in mine]

"""Train the embedded models, or draw samples of their world.

Examples:
  python -m zoo_exp embedded train --out runs/embedded
  python -m zoo_exp embedded samples --help
"""

import argparse

from zoo_exp._cli.help_text import HelpFormatter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of `embedded`."""
    from zoo_exp.embedded import cli
    from zoo_exp.embedded.world2.plan import plan_lines

    commands = parser.add_subparsers(dest="embedded_command", metavar="train|samples", required=True)
    train = commands.add_parser(
        "train",
        help="train an embedded model, or resume a training run",
        description="Train an embedded model, or resume a training run.",
        epilog="Numbers of a plan (three values: of embedded, embedded_next and embedded_qwen):\n"
        f"{plan_lines()}\n\n"
        "These are of a first run. The models that ship took two to seven, each from the weights of the one before: "
        "their commands are in experiments/embedded/README.md.\n\n"
        "Examples:\n"
        "  python -m zoo_exp embedded train model=embedded_next out=runs/embedded_next\n"
        "  python -m zoo_exp embedded train model=embedded out=runs/more start=runs/embedded/weights dense_steps=0 "
        "deepen_at=-1",
        formatter_class=HelpFormatter,
    )
    train.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="model=embedded|embedded_next|embedded_qwen trains on world 2; out=FOLDER; start=FOLDER (of weights), "
        "world1 or scratch; decoder=FOLDER (of a LLaVA, for embedded_qwen); device=cpu|cuda; threads=N; "
        "rows=N (questions per family at the end); export=FOLDER (save the last checkpoint's weights and stop); and "
        "the numbers of the plan. Without any, world 1's model, by the options below",
    )
    cli.add_train_arguments(train)
    train.set_defaults(handler=_train)
    samples = commands.add_parser(
        "samples",
        help="write a page of images, questions and answers of the nine families",
        description="Write a page of images, questions and answers of the nine families.",
        epilog="Examples:\n  python -m zoo_exp embedded samples\n"
        "  python -m zoo_exp embedded samples --view world2 --scene 0 --out photo.png",
        formatter_class=HelpFormatter,
    )
    cli.add_samples_arguments(samples)
    samples.set_defaults(handler=cli.samples)


def _train(args: argparse.Namespace) -> int:
    if not args.overrides:
        from zoo_exp.embedded import cli

        return cli.train(args)
    from zoo_exp.embedded.world2.commands import train
    from zoo_exp.models.qwen2_5_vl import qwen_processor_class
    from zoo_exp.quiet import quieten

    quieten()
    return train(args.overrides, qwen_processor_class())

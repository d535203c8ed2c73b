"""Train the embedded models, or draw samples of their world.

Examples:
  python -m zoo_exp embedded train --out runs/embedded
  python -m zoo_exp embedded samples --help
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of `embedded`."""
    from zoo_exp.embedded import cli

    commands = parser.add_subparsers(dest="embedded_command", metavar="train|samples", required=True)
    train = commands.add_parser(
        "train",
        help="train an embedded model, or resume a training run",
        description="Train an embedded model, or resume a training run.",
        epilog="example: python -m zoo_exp embedded train --out runs/embedded",
    )
    cli.add_train_arguments(train)
    train.set_defaults(handler=cli.train)
    samples = commands.add_parser(
        "samples",
        help="write a page of images, questions and answers of the nine families",
        description="Write a page of images, questions and answers of the nine families.",
        epilog="example: python -m zoo_exp embedded samples",
    )
    cli.add_samples_arguments(samples)
    samples.set_defaults(handler=cli.samples)

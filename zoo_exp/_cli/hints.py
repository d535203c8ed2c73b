"""What to type in the place of what argparse refuses."""

from collections.abc import Sequence


def without_dashes(arguments: Sequence[str], flags: Sequence[str]) -> str:
    """The end of a message about unknown flags: `--exp X` is the override `+exp=X` with dashes.

    Args:
        arguments: all that was typed.
        flags: those of them that no command knows.

    Returns:
        The overrides that were meant, or nothing where no flag has the name of one.
    """
    from dataclasses import fields

    from zoo_exp.config.overrides import WORDS
    from zoo_exp.config.schema import RunConfig

    keys = {*WORDS, *(item.name for item in fields(RunConfig))}
    meant = []
    for flag in flags:
        key, equals, value = flag.lstrip("-").partition("=")
        if key.partition(".")[0] not in keys:
            continue
        following = arguments[arguments.index(flag) + 1 :][:1]
        if not equals:
            is_value = following and not following[0].startswith("-") and "=" not in following[0]
            value = following[0] if is_value else "VALUE"
        meant.append(f"{'+' if key == 'exp' else ''}{key}={value}")
    return f"; overrides have no dashes: {' '.join(meant)}" if meant else ""

"""Suggestions for arguments that argparse rejects."""

from collections.abc import Sequence


def without_dashes(arguments: Sequence[str], flags: Sequence[str]) -> str:
    """Suggest overrides for unknown flags, such as `+exp=X` for `--exp X`.

    Args:
        arguments: the whole command line.
        flags: the flags in it that no command has.

    Returns:
        The end of the error message, or an empty string if no flag has the name of an override.
    """
    from zoo_exp.config.overrides import KEYS

    meant = []
    for flag in flags:
        key, equals, value = flag.lstrip("-").partition("=")
        if key.partition(".")[0] not in KEYS:
            continue
        following = arguments[arguments.index(flag) + 1 :][:1]
        if not equals:
            is_value = following and not following[0].startswith("-") and "=" not in following[0]
            value = following[0] if is_value else "VALUE"
        meant.append(f"{'+' if key == 'exp' else ''}{key}={value}")
    return f"; overrides have no dashes: {' '.join(meant)}" if meant else ""

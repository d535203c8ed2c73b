"""One tree of errors: each says what was given, what is allowed, and what to type."""

from collections.abc import Iterable
from difflib import get_close_matches


class ZooExpError(Exception):
    """Base of every error that a user can cause; the CLI prints it without a traceback and exits 2."""


class InvalidValueError(ZooExpError, ValueError):
    """A value of the right kind is out of range, has the wrong shape, or does not fit another one."""


class UnknownNameError(ZooExpError, LookupError):
    """A name that no registry, configuration group or schema knows."""

    def __init__(self, kind: str, given: str, available: Iterable[str], hint: str = "") -> None:
        names = sorted(available)
        close = get_close_matches(given, names, n=1, cutoff=0.5)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        listing = f" Available: {', '.join(names)}." if names else ""
        super().__init__(f"unknown {kind} '{given}'.{guess}{listing}{' ' + hint if hint else ''}")


class MissingFileError(ZooExpError, FileNotFoundError):
    """A file or folder that should be there is missing, unreadable or damaged."""

"""One tree of errors: each message says what was given, what is allowed, and what to type."""

from collections.abc import Iterable
from difflib import get_close_matches

_WORKER = "Original Traceback (most recent call last)"
"""In the message of an exception that torch has carried over from a DataLoader worker."""


class ZooExpError(Exception):
    """Base of every error that a user can correct; the CLI prints the message without a traceback and exits with 2."""


class InvalidValueError(ZooExpError, ValueError):
    """A value is out of range, has the wrong shape, or is inconsistent with another value."""


class UnknownNameError(ZooExpError, LookupError):
    """A name that is in no registry, configuration group or schema."""

    def __init__(self, kind: str, given: str, available: Iterable[str], hint: str = "") -> None:
        names = sorted(available)
        close = get_close_matches(given, names, n=1, cutoff=0.5)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        listing = f" Available: {', '.join(names)}." if names else ""
        super().__init__(f"unknown {kind} '{given}'.{guess}{listing}{' ' + hint if hint else ''}")


class MissingFileError(ZooExpError, FileNotFoundError):
    """A file or folder is missing, unreadable or damaged."""


def message_of(error: BaseException) -> str:
    """The message of an exception without the traceback that torch adds in a DataLoader worker.

    >>> message_of(ZooExpError("no file x"))
    'no file x'
    """
    text = str(error).strip()
    if _WORKER not in text:
        return text
    last = text.splitlines()[-1].strip()
    name, separator, message = last.partition(": ")
    return message if separator and name.replace(".", "").replace("_", "").isalnum() else last


def summary_of(error: BaseException) -> str:
    """Type and first line of an unexpected exception.

    >>> summary_of(KeyError("image"))
    "KeyError: 'image'"
    """
    lines = message_of(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

"""One tree of errors: each message says what was given, what is allowed, and what to type."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

_WORKER = "Original Traceback (most recent call last)"
"""In the message of an exception that torch has carried over from a DataLoader worker."""
LIBRARIES = (
    "PIL", "accelerate", "datasets", "huggingface_hub", "hydra", "jinja2", "lightning", "omegaconf", "pandas",
    "pyarrow", "safetensors", "tokenizers", "torch", "transformers", "yaml",
)  # fmt: skip
"""Libraries whose complaints about a value, a file or a missing package concern the user, not this package."""
LONGEST = 600
"""Characters of a library's message that are shown."""
LISTED = 300
"""Characters of the list of names in a message."""


class ZooExpError(Exception):
    """Base of every error that a user can correct; the CLI prints the message without a traceback and exits with 2."""


class InvalidValueError(ZooExpError, ValueError):
    """A value is out of range, has the wrong shape, or is inconsistent with another value."""


class UnknownNameError(ZooExpError, LookupError):
    """A name that is in no registry, configuration group or schema.

    Args:
        kind: what the name should be; the whole message if nothing else is given, as where torch or pickle makes the
            error again in another process.
        given: the name.
        available: known names.
        hint: a sentence behind them.
        shown: those of the known names that are listed, and others that may be given instead; all by default.
    """

    def __init__(
        self,
        kind: str,
        given: str | None = None,
        available: Iterable[str] = (),
        hint: str = "",
        shown: Iterable[str] | None = None,
    ) -> None:
        if given is None:
            super().__init__(kind)
            return
        names = sorted(available)
        close = get_close_matches(given, names, n=1, cutoff=0.5)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        listed = listing(given, names if shown is None else sorted(shown))
        listing_ = f" Available: {listed}." if listed else ""
        super().__init__(f"unknown {kind} '{given}'.{guess}{listing_}{' ' + hint if hint else ''}")


def listing(given: str, names: Sequence[str], most: int = LISTED) -> str:
    """Names as part of a message: all of them, or the most similar ones first and the number of the others.

    Args:
        given: what was given instead.
        names: in the order in which all of them are listed.
        most: characters.

    >>> listing("zo", ["full", "random", "zoo"]), listing("zo", ["full", "random", "zoo"], 4)
    ('full, random, zoo', 'zoo and 2 more')
    """
    text = ", ".join(names)
    if len(text) <= most:
        return text
    nearest = sorted(names, key=lambda name: -SequenceMatcher(None, given, name).ratio())
    shown = nearest[:1]
    for name in nearest[1:]:
        if sum(map(len, shown)) + 2 * len(shown) + len(name) > most:
            break
        shown.append(name)
    return f"{', '.join(shown)} and {len(names) - len(shown)} more"


class MissingFileError(ZooExpError, FileNotFoundError):
    """A file or folder is missing, unreadable or damaged."""


class UnexpectedError(Exception):
    """A bug: one line with the place where it occurred; the CLI exits with 1."""


OURS = (ZooExpError, InvalidValueError, UnknownNameError, MissingFileError, UnexpectedError)
"""Every class that can be made again from its message."""


def as_ours(error: BaseException, where: str = "") -> ZooExpError | UnexpectedError:
    """Any exception as one of ours: the only place where exceptions of other libraries are translated.

    A library that complains about a value, a file or a missing package speaks to the user; everything else that this
    package did not foresee is a bug.

    Args:
        error: what was raised, here or in another process.
        where: what was being worked on, such as task and sample; it precedes a message that does not name it.

    Returns:
        The error itself if there is nothing to add; otherwise a new one with a message in one line.
    """
    text = message_of(error)
    if isinstance(error, (ZooExpError, UnexpectedError)):
        if (not where or where in text) and text == str(error):
            return error
        kind = next(kind for kind in type(error).__mro__ if kind in OURS)
        made: ZooExpError | UnexpectedError = kind(_at(where, text))  # type: ignore[call-arg]
        return made
    said = _user_message(error, _one_line(text))
    if said is not None:
        return ZooExpError(_at(where, said))
    return UnexpectedError(_at(where, _one_line(summary_of(error))))


def ending(error: BaseException, debug: bool = False) -> tuple[str, int]:
    """How a command ends that raised an exception.

    Args:
        error: the exception.
        debug: the traceback was shown already.

    Returns:
        The line that it prints, and its exit code: 2 for an error that the user can correct, 1 for any other.

    >>> ending(InvalidValueError("budget -1: a count cannot be negative"))
    ('error: budget -1: a count cannot be negative', 2)
    """
    ours = as_ours(error)
    if isinstance(ours, ZooExpError):
        return f"error: {ours}", 2
    hint = "" if debug else " Rerun with --debug for the traceback"
    return f"error: unexpected {ours}. This is a bug in zoo_exp.{hint}", 1


def _user_message(error: BaseException, text: str) -> str | None:
    """What a foreign exception says to the user; None if it is a bug."""
    library = _library(type(error).__module__)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({text or 'no details'}): lower model.batch_size, or use a smaller model"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"a data worker ended ({text}): it may have run out of memory; lower data.workers"
    if library:
        return f"{library}: {text or type(error).__name__}"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}"
    if isinstance(error, (ValueError, OSError, ImportError, NotImplementedError)):
        raiser = _library(_raised_in(error))
        if raiser:
            return f"{raiser}: {text or type(error).__name__}"
    return None


def _library(module: str) -> str:
    """The library that a module belongs to; empty for others, such as this package and the standard library."""
    name = module.partition(".")[0]
    return name if name in LIBRARIES else ""


def _raised_in(error: BaseException) -> str:
    """The module of the last frame of the traceback that belongs to this package or one of `LIBRARIES`."""
    name, trace = "", error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if _library(module) or module.partition(".")[0] == "zoo_exp":
            name = module
        trace = trace.tb_next
    return name


def _at(where: str, text: str) -> str:
    """A message with its place, in which each name stands once.

    >>> _at("pope, row 0", "pope, sample a: no answer"), _at("pope, row 0", "pope: no answer")
    ('pope, sample a: no answer', 'pope, row 0: no answer')
    """
    head = where.partition(", ")[0]
    if not where or where in text or text.startswith(f"{head}, "):
        return text
    return f"{where}: {text.removeprefix(f'{head}: ')}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


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


def named(ids: Sequence[str], most: int = 3) -> str:
    """Sample ids as part of a message.

    Args:
        ids: the ids.
        most: how many of them to name.

    >>> named(["1", "2", "3", "4"])
    'samples 1, 2, 3 and 1 more'
    """
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"sample{'s' if len(ids) != 1 else ''} {', '.join(ids[:most])}{more}"

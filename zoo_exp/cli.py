"""The command line: which command, and what becomes of its errors. Commands import what is slow themselves.

Exit codes: 0 done, 2 a mistake of the user's (one message, no traceback), 75 stopped by SIGUSR1 or SIGTERM (the same
command goes on from there), 130 interrupted; anything else is a bug, and shows its traceback.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from zoo_exp import __version__
from zoo_exp._cli import bench, data, embedded, hints, listing, paper, report, run, score, show, slurm, tokens
from zoo_exp.errors import UnknownNameError, ZooExpError

DESCRIPTION = "Which visual tokens may a vision-language model drop, with which method, and at what loss?"
EXAMPLES = """Examples:
  python -m zoo_exp run +exp=ablation_fusion              the first table: minutes, CPU, no download
  python -m zoo_exp run selector=[full,zoo] budget=16     any selectors, any budget
  python -m zoo_exp list exps                             what there is to run
  python -m zoo_exp COMMAND --help                        more about a command

Exit codes: 0 done; 2 something typed or given is wrong, the message says what; 75 stopped by SIGUSR1 or SIGTERM, the
same command goes on from there; 130 interrupted by Ctrl-C, likewise.
"""
COMMANDS = {
    "run": run,
    "bench": bench,
    "slurm": slurm,
    "report": report,
    "tokens": tokens,
    "paper": paper,
    "list": listing,
    "show": show,
    "score": score,
    "data": data,
    "embedded": embedded,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 0 (help) or 2 (bad flags)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _dispatch([argument for argument in arguments if argument != "--debug"], debug)
    except ZooExpError as error:
        return _fail(str(error), debug)
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{place}{error.strerror or error}", debug)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's Trainer turns Ctrl-C into exit(1)
            return _interrupted()
        raise


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _dispatch(arguments: list[str], debug: bool) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m zoo_exp",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"zoo_exp {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip("."),
            description=summary,
            epilog=details.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments:  # the others' arguments are not asked for, so what they import is not either
            module.add_arguments(command)
    if not arguments:
        parser.print_help()
        return 0
    first = arguments[0]
    if not first.startswith("-") and first not in COMMANDS:
        hint = f"Overrides follow a command: python -m zoo_exp run {first}" if "=" in first else ""
        raise UnknownNameError("command", first, COMMANDS, hint)
    # Overrides may stand before, between and after the flags, which argparse cannot do below a subparser.
    args, rest = parser.parse_known_args(arguments)
    flags = [argument for argument in rest if argument.startswith("-")]
    if flags or (rest and not hasattr(args, "overrides")):
        meant = hints.without_dashes(arguments, flags) if hasattr(args, "overrides") else ""
        commands.choices[first].error(f"unrecognized arguments: {' '.join(flags or rest)}{meant}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    args.debug = debug
    code: int = args.handler(args)
    return code


def _fail(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return 2


def _interrupted() -> int:
    print("\ninterrupted: finished records are kept; the same command goes on from there", file=sys.stderr)
    return 130

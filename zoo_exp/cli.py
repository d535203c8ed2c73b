"""The command line: dispatch to a command and turn its errors into a message and an exit code.

Exit codes: 0 done; 1 a bug (one line; `--debug` shows the traceback); 2 invalid input (one message); 75 stopped by
SIGUSR1 or SIGTERM (the same command resumes); 130 interrupted by Ctrl-C. Commands import slow modules themselves, so
that `--help` is fast.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Collection, Sequence

from zoo_exp import __version__
from zoo_exp._cli import (
    ask,
    bench,
    check,
    clean,
    compare,
    completion,
    data,
    embedded,
    explore,
    hints,
    listing,
    masks,
    paper,
    rehearse,
    report,
    run,
    score,
    serve,
    show,
    slurm,
    tokens,
)
from zoo_exp._cli.help_text import HelpFormatter
from zoo_exp.console import announce_torch
from zoo_exp.errors import UnknownNameError, ending
from zoo_exp.evaluation import stop
from zoo_exp.threads import wait_passively

DESCRIPTION = (
    "Evaluate visual-token pruning for vision-language models: accuracy, token counts, FLOPs and latency."
)
EXAMPLES = """Examples:
  python -m zoo_exp run +exp=ablation_fusion              a first table: minutes, CPU, no download
  python -m zoo_exp run selector=[full,zoo] budget=16     any selectors at any budget
  python -m zoo_exp list exps                             list the experiments
  python -m zoo_exp COMMAND --help                        help for one command

Exit codes: 0 done; 1 a bug; 2 invalid input, explained in one message; 75 stopped by SIGUSR1 or SIGTERM; 130
interrupted by Ctrl-C. After 75 and 130 the same command resumes the run.
"""
COMMANDS = {
    "run": run,
    "ask": ask,
    "explore": explore,
    "serve": serve,
    "bench": bench,
    "slurm": slurm,
    "report": report,
    "compare": compare,
    "masks": masks,
    "tokens": tokens,
    "paper": paper,
    "list": listing,
    "show": show,
    "clean": clean,
    "completion": completion,
    "score": score,
    "data": data,
    "check": check,
    "rehearse": rehearse,
    "embedded": embedded,
}

ANNOUNCED = ("run", "bench", "tokens", "rehearse", "serve")
"""Commands that say that they are loading; what others print may be read by programs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse exits with 0 (help) or 2 (invalid flags) by itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        code = _dispatch([argument for argument in arguments if argument != "--debug"], debug)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stopped:
        if isinstance(
            stopped.__context__, KeyboardInterrupt
        ):  # Lightning's Trainer turns Ctrl-C into exit(1)
            return _interrupted()
        raise
    except Exception as error:
        return _failed(error, debug)


def entry() -> None:
    """The console script."""
    wait_passively()
    if sys.argv[1:2] == ["run"]:
        stop.install()  # before slow imports: without a handler, a signal to stop kills the process
    code = main()
    stop.ignore()  # the exit code is decided; a signal while the interpreter ends must not change it
    sys.exit(code)


def parsers(names: Collection[str]) -> "tuple[argparse.ArgumentParser, argparse._SubParsersAction]":
    """The parser of the command line, and its subparsers.

    Args:
        names: commands whose arguments are added; the others, and their imports, are left out.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo_exp",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"zoo_exp {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name,
            help=summary.rstrip(".").replace("%", "%%"),  # argparse formats it
            description=summary,
            epilog=details.strip("\n"),
            formatter_class=HelpFormatter,
        )
        if name in names:
            module.add_arguments(command)
    return parser, commands


def _dispatch(arguments: list[str], debug: bool) -> int:
    parser, commands = parsers(arguments)
    if not arguments:
        parser.print_help()
        return 0
    first = arguments[0]
    if not first.startswith("-") and first not in COMMANDS:
        hint = f"Overrides follow a command: python -m zoo_exp run {first}" if "=" in first else ""
        raise UnknownNameError("command", first, COMMANDS, hint)
    # Overrides may stand before, between and after flags; argparse does not support that below a subparser.
    args, rest = parser.parse_known_args(arguments)
    flags = [argument for argument in rest if argument.startswith("-")]
    if flags or (rest and not hasattr(args, "overrides")):
        meant = hints.without_dashes(arguments, flags) if hasattr(args, "overrides") else ""
        commands.choices.get(first, parser).error(f"unrecognized arguments: {' '.join(flags or rest)}{meant}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    args.debug, args.commands = debug, COMMANDS
    if args.command in ANNOUNCED and not getattr(args, "cfg", None):
        announce_torch()
    code: int = args.handler(args)
    return code


def _failed(error: Exception, debug: bool) -> int:
    """Print one message; the exit code."""
    if debug:
        traceback.print_exc()
    line, code = ending(error, debug)
    print(line, file=sys.stderr)
    return code


def _interrupted() -> int:
    print("\ninterrupted: all finished records are saved; rerun the same command to resume", file=sys.stderr)
    return 130

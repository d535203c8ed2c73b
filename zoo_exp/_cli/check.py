"""Check a selector of your own against the contract that every selector of the package passes.

Prints one line per check. The checks use made-up images, so no model is loaded. Options of the selector follow as
KEY=VALUE; each setting is a selector of its own and is checked by itself.

Examples:
  python -m zoo_exp check selector far_from_mean.py:FarFromMean
  python -m zoo_exp check selector far_from_mean.py:FarFromMean power=2
  python -m zoo_exp check selector zoo_closed_form
"""

import argparse
import sys
from typing import Any

from zoo_exp.console import aligned, columns, wrapped
from zoo_exp.errors import InvalidValueError, UnknownNameError, ending

KINDS = ("selector",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to check."""
    parser.add_argument("kind", metavar="selector")
    parser.add_argument(
        "name", metavar="NAME", help="FILE.py:CLASS, or a name (python -m zoo_exp list selectors)"
    )
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of the selector")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=check)


def check(args: argparse.Namespace) -> int:
    """Run the contract suite; print the first error, which may have caused the others, then every result."""
    if args.kind not in KINDS:
        raise UnknownNameError("kind of object", args.kind, KINDS)
    options = _options(args.options)
    from zoo_exp import selectors

    selector = selectors.get(args.name, **options)  # a missing file is refused before slow imports
    from zoo_exp.testing import outcomes

    found = list(outcomes(selector))
    failed = [outcome for outcome in found if outcome.error is not None]
    if failed and failed[0].error is not None:
        if args.debug:
            raise failed[0].error
        print(ending(failed[0].error)[0], file=sys.stderr, flush=True)
        print()
    rows = [(one.name, "passed" if one.error is None else "FAILED", one.summary) for one in found]
    print("\n".join(aligned([("check", "result", "what it checks"), *rows], columns(120))))
    for sentence in dict.fromkeys(str(outcome.error) for outcome in failed[1:]):
        if sentence != str(failed[0].error):
            print("\n".join(wrapped(f"also: {sentence}", columns())))
    passed = f"{len(found) - len(failed)} of {len(found)} checks passed"
    print("\n" + "\n".join(wrapped(f"{passed}: selector {selector.name} ({selector})", columns())))
    return 2 if failed else 0


def _options(texts: list[str]) -> dict[str, Any]:
    """Options from KEY=VALUE, in the grammar of overrides.

    Raises:
        InvalidValueError: a text that is not KEY=VALUE, or a key that is no name.
    """
    from zoo_exp.config.overrides import parse, plain

    found: dict[str, Any] = {}
    for override in parse([text.removeprefix("selector.options.") for text in texts]):
        if not override.key_or_group.isidentifier():
            raise InvalidValueError(f"'{override.input_line}': an option is KEY=VALUE, such as power=2")
        found[override.key_or_group] = plain(override.value())
    return found

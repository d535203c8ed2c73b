"""The outcomes of a rehearsal as a table, experiment by check, of 80 columns, and as Markdown."""

import textwrap
from collections.abc import Sequence

from zoo_exp.rehearsal.rehearsing import Outcome
from zoo_exp.rehearsal.watch import CHECKS
from zoo_exp.wording import counted

WAYS = ("killed", "ranks", "array")
HEADER = ("experiment", "answers", "n/a", *CHECKS, *WAYS, "s")
_WIDTHS = (20, 8, 4, 8, 5, 7, 5, 7, 6, 6, 4)
WIDTH = sum(_WIDTHS)
LONGEST = 400
"""Characters of a note; the error itself is said in full by `run`."""


def cells(one: Outcome) -> list[str]:
    """The row of one experiment."""
    marks = [_count(one, len(one.violations.get(check, ()))) for check in CHECKS]
    others = [_way(one.ways.get(way)) for way in WAYS]
    answers = f"{one.records[0]}/{one.records[1]}"
    return [one.name, answers, str(one.not_applicable), *marks, *others, f"{one.seconds:.0f}"]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines for a terminal: the table, then one paragraph for whatever is wrong, missing or will cost."""
    lines = [_line(HEADER)]
    for one in outcomes:
        lines.append(_line(cells(one)))
        for text in notes(one):
            lines += textwrap.wrap(
                textwrap.shorten(text, LONGEST, placeholder=" ..."),
                WIDTH,
                initial_indent="    ",
                subsequent_indent="      ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    failed = sum(not one.passed for one in outcomes)
    lines.append(f"{counted(len(outcomes), 'experiment')}, {failed} failed")
    return lines


def notes(one: Outcome) -> list[str]:
    """Sentences under the row of an experiment."""
    found = [f"error: {one.error}"] if one.error else []
    found += [f"{check}: {text}" for check, all_of in one.violations.items() for text in all_of[:3]]
    found += [f"{way}: {wrong}" for way, wrong in one.ways.items() if wrong not in ("", "-")]
    found += [f"missing: {task}: {why}" for task, why in one.missing.items()]
    return [*found, f"cost: {one.cost}"] if one.cost else found


def markdown(outcomes: Sequence[Outcome]) -> list[str]:
    """The table in Markdown, with model and tasks of each experiment."""
    head = [*HEADER[:1], "model: tasks", *HEADER[1:]]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for one in outcomes:
        first, *rest = cells(one)
        lines.append(f"| {' | '.join([first, one.where, *rest])} |")
    return lines


def _line(texts: Sequence[str]) -> str:
    first, *rest = zip(texts, _WIDTHS, strict=True)
    return (f"{first[0]:<{first[1]}}" + "".join(f"{text:>{width}}" for text, width in rest)).rstrip()


def _count(one: Outcome, wrong: int) -> str:
    return "-" if one.error else str(wrong) if wrong else "ok"


def _way(wrong: str | None) -> str:
    return {None: "", "": "ok", "-": "-"}.get(wrong, "wrong")

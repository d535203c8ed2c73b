"""Tables of the arm that a report is about: against the others, and the questions on which it succeeds or fails."""

from typing import Any

from zoo_exp.report.mask_items import answer_text
from zoo_exp.report.tables_statistics import PAIRED, paired_columns, plain_lines
from zoo_exp.report.tabular import DASH, Cell, Column, Table, build, known, text
from zoo_exp.statistics.focus import FAILURE, SUCCESS
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results

_JUDGED = (
    "more than half of the other selectors at this budget answer {others} (an arm with several seeds by its mean "
    "score; other arms of the same selector do not count). Those that the {most} of them answer correctly first."
)
OUTCOMES = {
    SUCCESS: "Questions that it answers correctly and " + _JUDGED.format(others="incorrectly", most="fewest"),
    FAILURE: "Questions that it answers incorrectly and " + _JUDGED.format(others="correctly", most="most"),
}
PLURAL = {SUCCESS: "successes", FAILURE: "failures"}
QUESTIONS = 20
"""Successes and failures that a page lists."""
LONGEST = 60
"""Characters of a question or a response in a table."""


def focus_tables(results: Results) -> list[Table]:
    """All of them; empty for a report that is about no arm in particular."""
    if not results.focus:
        return []
    return [focus_table(results), *(outcome_table(results, kind) for kind in (SUCCESS, FAILURE))]


def focus_table(results: Results) -> Table:
    """The arm that the report is about against every other arm of its budgets."""
    columns = [
        Column("arm", text("arm"), left=True),
        *paired_columns("arm higher : other higher"),
    ]
    lines = plain_lines(results.focus_comparisons)
    names = dict.fromkeys(str(line["arm"]) for line in lines)
    return build("focus", f"{' and '.join(names)} against the others", columns, lines, caption=PAIRED)


def outcome_table(results: Results, kind: str, most: int = QUESTIONS) -> Table:
    """The first successes or failures of the arm that the report is about."""
    mine = results.outcomes[results.outcomes["kind"] == kind] if len(results.outcomes) else results.outcomes
    lines = [
        {
            **line,
            "asked": short_text(line["question"]),
            "answer": short_text(answer_text(line["reference"])),
            "said": short_text(line["response"]) or "(empty)",
            "full": DASH
            if not known(line["full_response"])
            else short_text(line["full_response"]) or "(empty)",
            "right": f"{line['others_correct']} of {line['others']}",
        }
        for line in plain_lines(mine.head(most))
    ]
    columns = [
        Column("task", text("task"), left=True),
        Column("id", text("sample_id"), left=True),
        Column("question", text("asked"), left=True),
        Column("answer", text("answer"), left=True),
        Column("response", text("said"), left=True),
        Column("full model", text("full"), left=True),
        Column("others correct", lambda line: Cell(str(line["right"]), float(line["others_correct"]))),
    ]
    total = sum(
        int(n) for n in results.frame.loc[results.frame["task"] != AVERAGE].groupby("task")["n"].first()
    )
    shown = f" The first {most} are shown; outcomes.csv has all." if len(mine) > most else ""
    name = PLURAL[kind]
    title = f"{name.capitalize()} of {results.focus}: {len(mine)} of {total} questions"
    return build(name, title, columns, lines, caption=OUTCOMES[kind] + shown)


def short_text(shown: Any) -> str:
    """One line without control characters, cut where it is long."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(shown)).split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"

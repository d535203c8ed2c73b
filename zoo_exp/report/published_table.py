"""Published numbers beside ours as text: one table for the terminal, Markdown and LaTeX."""

from typing import NamedTuple

from zoo_exp.report.published import difference_text
from zoo_exp.report.tables import DASH, with_interval
from zoo_exp.statistics.results import Results

TITLE = "Beside the published numbers"
HEADS = ("arm", "task", "ours", "published", "ours - published", "inside our interval", "published in")
LEFT = 2
"""So many columns are text, and the last one."""


class Line(NamedTuple):
    """One row; nothing is escaped, and whoever prints `published` marks it."""

    arm: str
    task: str
    ours: str
    published: str
    difference: str
    inside: str
    source: str


def lines(results: Results) -> list[Line]:
    """The rows of `Results.published`; none for most runs."""
    return [
        Line(
            arm=str(row["arm"]),
            task=str(row["task"]),
            ours=with_interval(row["ours"], row["low"], row["high"]),
            published=f"{row['published']:.2f}",
            difference=difference_text(row["difference"]),
            inside=DASH if row["low"] != row["low"] else "yes" if row["within"] else "no",
            source=f"{row['source']}, table {row['table']}",
        )
        for row in results.published.to_dict("records")
    ]

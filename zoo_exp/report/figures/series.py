"""The average rows of a table as series: the same selector and options over its budgets."""

from dataclasses import dataclass

import pandas as pd

from zoo_exp.statistics.frame import AVERAGE


@dataclass(frozen=True)
class Series:
    """One line of a figure.

    Attributes:
        label: the arm's label without its budget.
        rows: its average rows, by measured number of kept tokens, ascending.
    """

    label: str
    rows: pd.DataFrame


def series(frame: pd.DataFrame) -> list[Series]:
    """One for each selector and options that have a budget, in the order of the table."""
    averages = frame[(frame["task"] == AVERAGE) & frame["budget"].notna()]
    return [
        Series(base_label(str(rows["arm"].iloc[0])), rows.sort_values("kept_tokens"))
        for _, rows in averages.assign(base=averages["arm"].map(base_label)).groupby("base", sort=False)
    ]


def base_label(arm: str) -> str:
    """The label of an arm without budget and number of seeds.

    >>> base_label("random @16 (3 seeds)"), base_label("zoo multiply @48"), base_label("full")
    ('random', 'zoo multiply', 'full')
    """
    head, mark, _ = arm.rpartition(" @")
    return head if mark else arm


def reference_row(frame: pd.DataFrame, selector: str) -> pd.Series | None:
    """The average row of `full` or `blind`, or None."""
    rows = frame[(frame["task"] == AVERAGE) & (frame["selector"] == selector)]
    return rows.iloc[0] if len(rows) else None

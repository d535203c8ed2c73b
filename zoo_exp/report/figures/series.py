"""The average rows of a table as series: the same selector and options over its budgets."""

from dataclasses import dataclass

import pandas as pd

from zoo_exp.statistics.frame import AVERAGE, measured_tokens


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
    averages = averages.assign(measured_tokens=measured_tokens(averages))
    return [
        Series(base_label(rows["row"].iloc[0], rows["budget"].iloc[0]), rows.sort_values("measured_tokens"))
        for _, rows in averages.groupby(["selector", "options"], sort=False)
    ]


def base_label(row: str, budget: str | None) -> str:
    """The label of a row without its budget, which is known.

    >>> base_label("zoo multiply @48", "48"), base_label("ours @home @48", "48"), base_label("full", None)
    ('zoo multiply', 'ours @home', 'full')
    """
    return row.removesuffix(f" @{budget}")


def reference_row(frame: pd.DataFrame, selector: str) -> pd.Series | None:
    """The average row of `full` or `blind`, or None."""
    rows = frame[(frame["task"] == AVERAGE) & (frame["selector"] == selector)]
    return rows.iloc[0] if len(rows) else None

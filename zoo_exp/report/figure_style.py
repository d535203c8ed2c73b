"""One style for every figure: Okabe and Ito's colours, a marker and a dash for each series, light and dark pages."""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo_exp.files import replaced
from zoo_exp.statistics.frame import AVERAGE, measured_tokens

# Distinguishable with any colour vision; marker and dash say the same in greyscale print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a7a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
GREY = "#777777"
ON_BRIGHT = "#010101"
"""Text on a bright part of a heat map: it stays dark on a dark page."""
NARROW = "_narrow"
"""What the name of the file for narrow screens ends in."""
DARK = """<style>@media (prefers-color-scheme: dark) {
[style*="fill: #ffffff"]:not(text) { fill: #11181f !important; }
[style*="stroke: #000000"] { stroke: #d5dde5 !important; }
[style*="fill: #000000"] { fill: #d5dde5 !important; }
text:not([style*="fill:"]) { fill: #e6ebf0 !important; }
[style*="stroke: #e4e4e4"] { stroke: #2c3843 !important; }
[style*="stroke: #777777"] { stroke: #9aa7b4 !important; }
[style*="fill: #777777"] { fill: #9aa7b4 !important; }
[style*="stroke: #0072b2"] { stroke: #3f9fdc !important; }
[style*="fill: #0072b2"] { fill: #3f9fdc !important; }
[style*="stroke: #8a7a00"] { stroke: #c4b000 !important; }
[style*="fill: #8a7a00"] { fill: #c4b000 !important; }
}</style>"""
"""Colours of an SVG figure where the reader prefers dark pages."""
SETTINGS: Any = {  # matplotlib types its keys one by one
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # labels are data: a dollar sign must not start a formula
    "svg.fonttype": "none",  # text stays text: a third of the size, and it can be searched
    "svg.hashsalt": "zoo_exp",  # the same figure gives the same file
}


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th series; 32 differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        "markersize": 4.5,
        "linewidth": 1.4,
    }


@contextmanager
def figure(
    path: Path,
    panel: tuple[float, float],
    panels: int = 1,
    *,
    columns: int | None = None,
    legend: int = 0,
    narrow: bool = False,
) -> Iterator[list[Axes]]:
    """Axes to draw on; afterwards they are written as `path` with .svg and .png, or with `_narrow.svg`.

    Args:
        path: the common name of the files; an extension is replaced.
        panel: width and height of one panel in inches, with its labels.
        panels: how many panels.
        columns: panels side by side; all of them, if None.
        legend: how many entries the legend has.
        narrow: for a phone: 3.9 inches wide, panels one below the other, the legend below them.
    """
    columns = columns or panels
    rows = -(-panels // columns)
    width = panel[0] * columns + (2.2 if legend else 0.6)
    height = max(panel[1] * rows, 0.2 * legend)
    if narrow:
        columns = 1 if columns == panels else 2
        rows = -(-panels // columns)
        width = 3.9
        one = min(panel[1], panel[1] * width / (columns * panel[0]) + 0.2)
        height = one * rows + 0.16 * math.ceil(legend / 2) + 0.2
    small = {"font.size": 8, "axes.titlesize": 8.5, "legend.fontsize": 7} if narrow else {}
    with matplotlib.rc_context(SETTINGS | small), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; that is no reason to fail or to warn.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        drawn = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(drawn)  # without pyplot, a figure needs its canvas by hand
        axes = drawn.subplots(rows, columns, squeeze=False)
        yield list(axes.flat)
        # Laid out once: with an engine in place every file would be drawn twice.
        layout = drawn.get_layout_engine()
        if layout is not None:
            layout.execute(drawn)
        drawn.set_layout_engine(None)
        name = f"{path.name}{NARROW}.svg" if narrow else path.with_suffix(".svg").name
        svg = io.StringIO()
        drawn.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Format", "Type", "Creator")))
        with replaced(path.with_name(name), sync=False) as file:
            file.write(_rounded(svg.getvalue()).replace("</svg>", f"{DARK}\n</svg>").encode())
        if not narrow:
            with replaced(path.with_suffix(".png"), sync=False) as file:
                drawn.savefig(file, format="png", dpi=160, metadata={"Software": None})


def _rounded(svg: str) -> str:
    """Coordinates with two decimals, a hundredth of a point; other numbers stay.

    >>> _rounded('<path d="M 40.179693 -3.00024" style="stroke-width: 0.125"/>')
    '<path d="M 40.18 -3" style="stroke-width: 0.125"/>'
    """

    def short(match: re.Match[str]) -> str:
        return re.sub(
            r"-?\d+\.\d+",
            lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."),
            match.group(),
        )

    return re.sub(r' (?:d|x|y|points)="[^"]*"', short, svg)


def add_legend(axes: Axes, narrow: bool = False) -> None:
    """The legend outside of the axes, where it hides nothing: at the right, or below the figure.

    Long labels take several lines, as two arms may differ at their ends only; the figure becomes higher for them.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    owner: Any = axes.figure
    wrapped = [textwrap.fill(label, 26 if narrow else 34) for label in labels]
    more = [label.count("\n") for label in wrapped]
    if narrow:
        middle = math.ceil(len(more) / 2)
        owner.set_figheight(owner.get_figheight() + 0.14 * max(sum(more[:middle]), sum(more[middle:])))
        owner.legend(handles, wrapped, loc="outside lower left", ncols=2)
    else:
        owner.set_figheight(max(owner.get_figheight(), 0.19 * len(wrapped) + 0.14 * sum(more) + 0.2))
        axes.legend(handles, wrapped, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def error_bars(axes: Axes, x: Any, rows: pd.DataFrame, number: int, label: str) -> None:
    """One series of retained averages with their 95 % intervals.

    Args:
        axes: to draw on.
        x: horizontal places [P].
        rows: with the columns `retained`, `retained_low` and `retained_high` [P].
        number: of the series, for its style.
        label: for the legend.
    """
    y = rows["retained"].to_numpy(float)
    bars = np.abs(np.stack([y - rows["retained_low"], rows["retained_high"] - y]))
    axes.errorbar(x, y, yerr=bars, capsize=2, elinewidth=0.8, label=shorten(label), **line_style(number))


def shorten(label: str, length: int = 102) -> str:
    """A label of printable characters on one line; a longer one ends in dots."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    return plain if len(plain) <= length else plain[: length - 1].rstrip() + "…"


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
    """One for each method that has a budget, in the order of the table.

    The label belongs to the method beside selector and options: it tells positions and the budget's scope.
    """
    averages = frame[(frame["task"] == AVERAGE) & frame["budget"].notna()]
    labels = [
        base_label(row, budget) for row, budget in zip(averages["row"], averages["budget"], strict=True)
    ]
    averages = averages.assign(measured_tokens=measured_tokens(averages), base_label=labels)
    return [
        Series(str(label), rows.sort_values("measured_tokens"))
        for (_, _, label), rows in averages.groupby(["selector", "options", "base_label"], sort=False)
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

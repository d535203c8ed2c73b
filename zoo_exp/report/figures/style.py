"""One style for every figure: Okabe and Ito's colours, a marker and a dash for each, no chart junk."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zoo_exp.files import replaced

# Told apart with any colour vision; marker and dash say the same in grey print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a7a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
GREY = "#777777"
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
    path: Path, width: float = 6.4, height: float = 3.8, rows: int = 1, columns: int = 1
) -> Iterator[list[Axes]]:
    """Axes to draw on; afterwards they are written as `path` with .svg and with .png.

    Args:
        path: the files' common name; an extension is replaced.
        width: inches.
        height: inches.
        rows: of axes.
        columns: of axes.
    """
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; that is no reason to fail or to shout.
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
        svg = io.StringIO()
        drawn.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Format", "Type", "Creator")))
        with replaced(path.with_suffix(".svg"), sync=False) as file:
            file.write(_rounded(svg.getvalue()).encode())
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


def legend_right(axes: Axes) -> None:
    """The legend beside the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def shorten(label: str, length: int = 34) -> str:
    """A label that fits into a legend, on one line."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    return plain if len(plain) <= length else plain[: length - 1].rstrip() + "…"

"""Retained average against the number of visual tokens that were kept."""

from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figures.series import reference_row, series
from zoo_exp.report.figures.style import GREY, figure, legend_right, line_style, shorten


def apart(ticks: list[int], ratio: float = 1.09) -> list[str]:
    """Labels of ascending ticks on a logarithmic axis; those too near to the label before stay empty.

    >>> apart([16, 32, 76, 80, 88])
    ['16', '32', '76', '', '88']
    """
    labels: list[str] = []
    last = 0.0
    for tick in ticks:
        near = tick < last * ratio
        labels.append("" if near else str(tick))
        last = last if near else tick
    return labels


def draw(frame: pd.DataFrame, path: Path) -> bool:
    """Draw it; False where there are fewer than two budgets, or no retained average."""
    lines = series(frame)
    budgets = frame.loc[frame["budget"].notna(), "budget"].nunique()
    if budgets < 2 or all(line.rows["retained"].isna().all() for line in lines):
        return False
    with figure(path, width=7.2, height=max(3.6, 0.2 * len(lines))) as (axes,):
        for number, line in enumerate(lines):
            rows = line.rows
            # Points of one budget would hide each other's intervals.
            x = rows["measured_tokens"].to_numpy(float) * (1 + 0.012 * (number - len(lines) / 2))
            y = rows["retained"].to_numpy(float)
            bars = np.abs(np.stack([y - rows["retained_low"], rows["retained_high"] - y]))
            axes.errorbar(
                x, y, yerr=bars, capsize=2, elinewidth=0.8, label=shorten(line.label), **line_style(number)
            )
        axes.axhline(100, color=GREY, linewidth=0.9, linestyle="--")
        axes.annotate(
            "full",
            (1, 100),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=GREY,
            fontsize=8,
        )
        blind = reference_row(frame, "blind")
        if blind is not None and blind["retained"] == blind["retained"]:
            axes.axhline(blind["retained"], color=GREY, linewidth=0.9, linestyle=":")
            place = (1, blind["retained"])
            axes.annotate(
                "blind",
                place,
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=GREY,
                fontsize=8,
            )
        axes.set_xscale("log", base=2)
        ticks = sorted(
            {round(float(v)) for line in lines for v in line.rows["measured_tokens"] if v == v and v > 0}
        )
        axes.set_xticks(ticks, apart(ticks))
        axes.minorticks_off()
        axes.set_xlabel(
            "visual tokens kept, measured (rules inside the language model: mean over its layers)"
        )
        axes.set_ylabel("retained average, %")
        legend_right(axes)
    return True

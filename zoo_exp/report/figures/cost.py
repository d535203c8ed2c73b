"""Retained average against what an answer costs: time on this machine, and floating-point operations."""

from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figures.series import reference_row, series
from zoo_exp.report.figures.style import GREY, figure, legend_right, line_style, shorten


def draw(frame: pd.DataFrame, path: Path) -> bool:
    """Draw both panels; False where the run has neither times nor operations, or no retained average."""
    lines = series(frame)
    total = frame.assign(time=frame["select_ms"].fillna(0) + frame["prefill_decode_ms"])
    quantities = [
        ("time", 1.0, "selector + prefill + decode, ms a question"),
        ("flops_tflop", 1e3, "all stages, GFLOP a question"),
    ]
    known = [q for q in quantities if total.loc[total["budget"].notna(), q[0]].notna().any()]
    if not known or all(line.rows["retained"].isna().all() for line in lines):
        return False
    with figure(
        path, width=4.2 * len(known) + 2, height=max(3.6, 0.2 * len(lines)), columns=len(known)
    ) as panels:
        for axes, (name, scale, label) in zip(panels, known, strict=True):
            for number, line in enumerate(series(total)):
                x, y = line.rows[name].to_numpy(float) * scale, line.rows["retained"].to_numpy(float)
                bars = np.abs(np.stack([y - line.rows["retained_low"], line.rows["retained_high"] - y]))
                axes.errorbar(
                    x,
                    y,
                    yerr=bars,
                    capsize=2,
                    elinewidth=0.8,
                    label=shorten(line.label),
                    **line_style(number),
                )
            full = reference_row(total, "full")
            if full is not None and full[name] == full[name]:
                axes.plot(
                    [full[name] * scale], [100], marker="*", color=GREY, markersize=11, linestyle="none"
                )
                place = (full[name] * scale, 100)
                axes.annotate(
                    "full", place, (0, -12), textcoords="offset points", ha="center", color=GREY, fontsize=8
                )
            axes.set_xlim(left=0)
            axes.set_xlabel(label)
        panels[0].set_ylabel("retained average, %")
        legend_right(panels[-1])
    return True

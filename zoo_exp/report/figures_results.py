"""Figures of a run's results: retained average by budget, by cost, by step size and by encoder layer."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figure_style import (
    GREY,
    ON_BRIGHT,
    add_legend,
    error_bars,
    figure,
    reference_row,
    series,
)
from zoo_exp.statistics.frame import AVERAGE

RETAINED = "retained average, %"
HEAT_AXES = ("n_directions", "step_size")


def budget_curve(frame: pd.DataFrame, path: Path, narrow: bool = False) -> bool:
    """Retained average against kept tokens; False for fewer than two budgets, or without a retained average.

    Args:
        frame: `Results.frame`.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    lines = series(frame)
    budgets = frame.loc[frame["budget"].notna(), "budget"].nunique()
    if budgets < 2 or all(line.rows["retained"].isna().all() for line in lines):
        return False
    with figure(path, (5.0, 3.6), legend=len(lines), narrow=narrow) as (axes,):
        for number, line in enumerate(lines):
            # Points of one budget would hide each other's intervals.
            x = line.rows["measured_tokens"].to_numpy(float) * (1 + 0.012 * (number - len(lines) / 2))
            error_bars(axes, x, line.rows, number, line.label)
        for selector, dash in (("full", "--"), ("blind", ":")):
            row = reference_row(frame, selector)
            level = 100.0 if selector == "full" else float("nan") if row is None else float(row["retained"])
            if level == level:
                axes.axhline(level, color=GREY, linewidth=0.9, linestyle=dash)
                place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
                axes.annotate(selector, (1, level), color=GREY, fontsize=8, **place)
        axes.set_xscale("log", base=2)
        points = [round(float(v)) for line in lines for v in line.rows["measured_tokens"] if v == v and v > 0]
        ticks = dict(sorted(Counter(points).items()))
        axes.set_xticks(list(ticks), apart(ticks, 0.034 if narrow else 0.024))
        axes.minorticks_off()
        axes.set_xlabel(
            "visual tokens kept, measured" + ("" if narrow else " (layer selectors: mean over layers)")
        )
        axes.set_ylabel(RETAINED)
        add_legend(axes, narrow)
    return True


def apart(ticks: Mapping[int, int], digit: float = 0.024) -> list[str]:
    """Labels of ascending ticks on a logarithmic axis; of two that would touch, the tick with more points has one.

    Args:
        ticks: place -> number of points there, from the first to the last place on the axis.
        digit: width of a digit, as a share of the distance between first and last.

    >>> apart({16: 3, 32: 3, 76: 1, 80: 3, 88: 1})
    ['16', '32', '', '80', '']
    """
    span = math.log(max(ticks) / min(ticks)) if ticks else 0.0
    shown: list[int] = []
    for tick in sorted(ticks, key=lambda place: (-ticks[place], place)):
        widths = {other: digit * span * (len(str(other)) + len(str(tick)) + 1) / 2 for other in shown}
        if all(abs(math.log(tick / other)) >= width for other, width in widths.items()):
            shown.append(tick)
    return [str(tick) if tick in shown else "" for tick in ticks]


def cost(frame: pd.DataFrame, path: Path, narrow: bool = False) -> bool:
    """Retained average against time and FLOPs; False without both, or without a retained average.

    Args:
        frame: `Results.frame`.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    total = frame.assign(time=frame["select_ms"].fillna(0) + frame["prefill_decode_ms"])
    lines = series(total)
    quantities = [
        ("time", 1.0, "selector + prefill + decode, ms per question"),
        ("flops_tflop", 1e3, "all stages, GFLOP per question"),
    ]
    known = [q for q in quantities if total.loc[total["budget"].notna(), q[0]].notna().any()]
    if not known or all(line.rows["retained"].isna().all() for line in lines):
        return False
    with figure(path, (4.2, 3.6), len(known), legend=len(lines), narrow=narrow) as panels:
        for axes, (name, scale, label) in zip(panels, known, strict=True):
            for number, line in enumerate(lines):
                error_bars(axes, line.rows[name].to_numpy(float) * scale, line.rows, number, line.label)
            full = reference_row(total, "full")
            if full is not None and full[name] == full[name]:
                place = (full[name] * scale, 100)
                axes.plot(*place, marker="*", color=GREY, markersize=11, linestyle="none")
                below = {"textcoords": "offset points", "ha": "center", "color": GREY, "fontsize": 8}
                axes.annotate("full", place, (0, -12), **below)
            axes.set_xlim(left=0)
            axes.set_xlabel(label)
            axes.set_ylabel(RETAINED if narrow or axes is panels[0] else "")
        add_legend(panels[-1], narrow)
    return True


def heat_map(frame: pd.DataFrame, path: Path, narrow: bool = False) -> bool:
    """Retained average over m directions and step size h; False where no arms differ in both.

    Args:
        frame: `Results.frame`.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    panels = heat_tables(frame)
    if not panels:
        return False
    values = np.concatenate([panel.to_numpy().ravel() for panel in panels.values()])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    with figure(path, (4.0, 3.4), len(panels), narrow=narrow) as drawn:
        for axes, (title, panel) in zip(drawn, panels.items(), strict=True):
            grid = panel.to_numpy()
            image = axes.imshow(grid, cmap="cividis", aspect="auto", vmin=low, vmax=max(high, low + 0.1))
            for (row, column), value in np.ndenumerate(grid):
                if value == value:
                    colour = ON_BRIGHT if value > (low + high) / 2 else "white"
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
            axes.set_xticks(range(len(panel.columns)), [f"{h:g}" for h in panel.columns])
            axes.set_yticks(range(len(panel.index)), [str(int(m)) for m in panel.index])
            axes.set_xlabel("step size h")
            axes.set_ylabel("directions m")
            axes.set_title(title)
            axes.grid(visible=False)
        axes.figure.colorbar(image, ax=drawn, label=RETAINED, shrink=0.9)
    return True


def heat_tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title -> retained average, one row per m and column per h; only where both take two values."""
    rows = []
    for row in frame[frame["task"] == AVERAGE].to_dict("records"):
        options = json.loads(row["options"])
        if all(name in options for name in HEAT_AXES):
            title = f"{row['budget']} tokens, {options.get('dtype', 'float32')}"
            rows.append((title, int(options["n_directions"]), float(options["step_size"]), row["retained"]))
    found = pd.DataFrame(rows, columns=["title", "m", "h", "retained"])
    if found["m"].nunique() < 2 or found["h"].nunique() < 2:
        return {}
    return {
        str(title): part.pivot_table(index="m", columns="h", values="retained", dropna=False)
        for title, part in found.groupby("title", sort=False)
        if part["retained"].notna().any()
    }


def layer_curve(frame: pd.DataFrame, path: Path, narrow: bool = False) -> bool:
    """Retained average by the encoder layer of the sensitivity, beside the projector's; False for under two layers.

    Every budget has a curve for the response at the projector's output, and one for that at its input.

    Args:
        frame: `Results.frame`.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    averages = frame[(frame["task"] == AVERAGE) & (frame["selector"] == "zoo")]
    options = averages["options"].map(json.loads)
    averages = averages.assign(layer=[entry.get("layer") for entry in options])
    layers = averages[averages["layer"].notna()]
    if layers["layer"].nunique() < 2 or layers["retained"].isna().all():
        return False
    # The projector's arm to compare with is the one that differs in the layer and in the response only.
    where = ("layer", "response")
    rest = [
        json.dumps({k: v for k, v in entry.items() if k not in where}, sort_keys=True) for entry in options
    ]
    response = [entry.get("response", "projector") for entry in options]
    averages = averages.assign(rest=rest, response=response)
    curves = [
        (budget, kind, curve.sort_values("layer"))
        for (budget, kind), curve in averages[averages["layer"].notna()].groupby(
            ["budget", "response"], sort=False
        )
    ]
    with figure(path, (4.8, 3.6), legend=len(curves), narrow=narrow) as (axes,):
        last, compared = int(layers["layer"].max()), False
        for number, (budget, kind, curve) in enumerate(curves):
            alike = averages["layer"].isna() & (averages["budget"] == budget)
            same = averages[alike & (averages["rest"] == curve["rest"].iloc[0])]
            compared |= len(same) > 0
            shown = pd.concat([curve, same.head(1)])
            x = [*curve["layer"].astype(float), *([last + 1.0] * len(same.head(1)))]
            label = f"{budget} tokens" + (", projector's input" if kind == "features" else "")
            error_bars(axes, np.asarray(x) + 0.06 * (number - 1), shown, number, label)
        marks = sorted({int(layer) for layer in layers["layer"]})
        ticks = {mark: str(mark) for mark in marks} | ({last + 1: "projector"} if compared else {})
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlabel("encoder layer after which sensitivity is measured")
        axes.set_ylabel(RETAINED)
        add_legend(axes, narrow)
    return True

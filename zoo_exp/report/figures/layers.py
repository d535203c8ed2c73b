"""Retained average by the encoder layer at which sensitivity was measured, beside the projector's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figures.style import figure, legend_right, line_style
from zoo_exp.statistics.frame import AVERAGE


def draw(frame: pd.DataFrame, path: Path) -> bool:
    """One line per budget; False where fewer than two layers were measured."""
    averages = frame[(frame["task"] == AVERAGE) & (frame["selector"] == "zoo")]
    options = averages["options"].map(json.loads)
    averages = averages.assign(layer=[entry.get("layer") for entry in options])
    layers = averages[averages["layer"].notna()]
    if layers["layer"].nunique() < 2 or layers["retained"].isna().all():
        return False
    # The projector's arm to compare with is the one that differs in the layer only.
    rest = [json.dumps({k: v for k, v in entry.items() if k != "layer"}, sort_keys=True) for entry in options]
    averages = averages.assign(rest=rest)
    with figure(path, width=7.0, height=3.6) as (axes,):
        last, compared = int(layers["layer"].max()), False
        for number, (budget, rows) in enumerate(averages.groupby("budget", sort=False)):
            curve = rows[rows["layer"].notna()].sort_values("layer")
            if curve.empty:
                continue
            same = rows[rows["layer"].isna() & (rows["rest"] == curve["rest"].iloc[0])]
            compared |= len(same) > 0
            shown = pd.concat([curve, same.head(1)])
            x = [*curve["layer"].astype(float), *([last + 1.0] * len(same.head(1)))]
            y = shown["retained"].to_numpy(float)
            bars = np.abs(np.stack([y - shown["retained_low"], shown["retained_high"] - y]))
            style = line_style(number)
            shift = 0.06 * (number - 1)
            places = np.asarray(x) + shift
            axes.errorbar(places, y, yerr=bars, capsize=2, elinewidth=0.8, label=f"{budget} tokens", **style)
        marks = sorted({int(layer) for layer in layers["layer"]})
        ticks = {mark: str(mark) for mark in marks} | ({last + 1: "projector"} if compared else {})
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlabel("encoder layer behind which sensitivity was measured")
        axes.set_ylabel("retained average, %")
        legend_right(axes)
    return True

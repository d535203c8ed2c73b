"""Heat map of the retained average over the number of directions m and the step size h."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figures.style import figure
from zoo_exp.statistics.frame import AVERAGE

AXES = ("n_directions", "step_size")


def draw(frame: pd.DataFrame, path: Path) -> bool:
    """One panel per dtype and budget; False where no arms differ in both m and h."""
    panels = tables(frame)
    if not panels:
        return False
    values = np.concatenate([panel.to_numpy().ravel() for panel in panels.values()])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    with figure(path, width=4.0 * len(panels) + 0.6, height=3.4, columns=len(panels)) as drawn:
        for axes, (title, panel) in zip(drawn, panels.items(), strict=True):
            grid = panel.to_numpy()
            image = axes.imshow(grid, cmap="cividis", aspect="auto", vmin=low, vmax=max(high, low + 0.1))
            for (row, column), value in np.ndenumerate(grid):
                if value == value:
                    bright = value > (low + high) / 2
                    colour = "black" if bright else "white"
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
            axes.set_xticks(range(len(panel.columns)), [f"{h:g}" for h in panel.columns])
            axes.set_yticks(range(len(panel.index)), [str(int(m)) for m in panel.index])
            axes.set_xlabel("step size h")
            axes.set_ylabel("directions m")
            axes.set_title(title)
            axes.grid(visible=False)
        axes.figure.colorbar(image, ax=drawn, label="retained average, %", shrink=0.9)
    return True


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title -> retained average, one row per m and column per h; only where both take two values."""
    rows = []
    for row in frame[frame["task"] == AVERAGE].to_dict("records"):
        options = json.loads(row["options"])
        if all(name in options for name in AXES):
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

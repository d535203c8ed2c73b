"""How rank correlations are distributed over images: one density per arm, one panel per task."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from zoo_exp.report.figures.series import base_label
from zoo_exp.report.figures.style import figure, legend_right, line_style, shorten

MAX_PANELS = 4
HIGHEST = 6.0
"""Density at which a panel is cut off."""


def draw(tokens: pd.DataFrame, path: Path, column: str = "spearman_above") -> bool:
    """Gaussian kernel densities (Scott's width); False where no arm is compared with another one.

    Args:
        tokens: from `token_rows.read_tokens`.
        path: the files' common name.
        column: `spearman` (all tokens), or `spearman_above` (those above the threshold, as in the supplement).
    """
    base = {arm: base_label(arm, budget) for arm, budget in zip(tokens["arm"], tokens["budget"], strict=True)}
    others = tokens[(tokens["arm"] != tokens["reference"]) & tokens[column].notna()]
    others = others.assign(base=others["arm"].map(base))
    # Budgets of one selector have the same scores, and the reference's other budgets are the reference itself.
    others = others[others["base"] != others["reference"].map(base)]
    others = others.drop_duplicates(["task", "sample_id", "image", "base"])
    tasks = list(others["task"].unique())[:MAX_PANELS]
    if not tasks:
        return False
    x = np.linspace(-1, 1, 400)
    with figure(path, width=3.4 * len(tasks) + 2.4, height=3.4, columns=len(tasks)) as panels:
        for axes, task in zip(panels, tasks, strict=True):
            mine = others[others["task"] == task]
            for number, (base, part) in enumerate(mine.groupby("base", sort=False)):
                values = part[column].to_numpy(float)
                style = {k: v for k, v in line_style(number).items() if not k.startswith("marker")}
                label = f"{shorten(str(base), 40)}"
                spread = len(values) > 2 and values.std() > 1e-3
                if spread:
                    axes.plot(x, stats.gaussian_kde(values)(x), label=label, **style)
                # All of a rule's correlations may be the same: its mean is then all there is to show.
                alone = {} if spread else {"label": label, "linestyle": style["linestyle"]}
                axes.axvline(values.mean(), color=style["color"], linewidth=0.8, alpha=0.6, **alone)
            axes.set_title(f"{task}, {mine['sample_id'].nunique()} questions")
            axes.set_xlabel("Spearman correlation with the reference")
            axes.set_xlim(-1, 1.02)
            # One rule that agrees almost perfectly must not flatten all others; its mean line shows where it is.
            axes.set_ylim(0, min(axes.get_ylim()[1], HIGHEST))
        panels[0].set_ylabel("density over images")
        legend_right(panels[-1])
    return True

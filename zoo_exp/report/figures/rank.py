"""Effective rank of the kept set by arm: how many directions of the feature space it still spans."""

from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.report.figures.style import COLOURS, GREY, figure, shorten
from zoo_exp.report.token_rows import averages


def draw(tokens: pd.DataFrame, path: Path) -> bool:
    """Horizontal bars with 95 % intervals over images; False where there is nothing to draw."""
    if tokens.empty:
        return False
    table = averages(tokens)
    table = table[table["effective_rank"].notna() & (table["kept_tokens"] > 0)]
    if table.empty:
        return False
    budgets = list(dict.fromkeys(table["budget"].fillna("all")))
    with figure(path, width=7, height=max(2.2, 0.19 * len(table) + 0.8)) as (axes,):
        places = np.arange(len(table))[::-1]
        colours = [
            GREY if b == "all" else COLOURS[budgets.index(b) % len(COLOURS)]
            for b in table["budget"].fillna("all")
        ]
        axes.barh(places, table["effective_rank"], xerr=table["effective_rank_se"], color=colours, height=0.7,
                  error_kw={"elinewidth": 0.8, "capsize": 2})  # fmt: skip
        axes.set_yticks(places, [shorten(str(arm), 48) for arm in table["arm"]], fontsize=7)
        axes.set_xlabel("effective rank of the kept tokens' directions, mean over images")
        axes.grid(axis="y", visible=False)
    return True

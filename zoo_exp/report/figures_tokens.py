"""Figures of the tokens themselves: rank correlations, effective rank, and positions of kept tokens."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from zoo_exp.overlays import kept_mask
from zoo_exp.report.figure_style import (
    COLOURS,
    GREY,
    add_legend,
    base_label,
    figure,
    line_style,
    shorten,
)
from zoo_exp.report.mask_items import MaskItem
from zoo_exp.report.token_rows import averages
from zoo_exp.wording import counted

MAX_PANELS = 4
MAX_ARMS = 12
HIGHEST = 6.0
"""Density at which a panel is cut off."""


def correlations(
    tokens: pd.DataFrame, path: Path, column: str = "spearman_above", narrow: bool = False
) -> bool:
    """Densities of the rank correlation over images, one line per arm and one panel per task.

    Gaussian kernels with Scott's width; False where no arm is compared with another one.

    Args:
        tokens: from `token_rows.read_tokens`.
        path: the common name of the files.
        column: `spearman` (all tokens), or `spearman_above` (those above the threshold, as in the supplement).
        narrow: layout for a phone.
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
    with figure(path, (3.4, 3.4), len(tasks), legend=others["base"].nunique(), narrow=narrow) as panels:
        for axes, task in zip(panels, tasks, strict=True):
            mine = others[others["task"] == task]
            for number, (label, part) in enumerate(mine.groupby("base", sort=False)):
                values = part[column].to_numpy(float)
                style = {k: v for k, v in line_style(number).items() if not k.startswith("marker")}
                label = shorten(str(label))
                spread = len(values) > 2 and values.std() > 1e-3
                if spread:
                    axes.plot(x, stats.gaussian_kde(values)(x), label=label, **style)
                # All correlations of a selector may be equal: their mean is then all there is to show.
                alone = {} if spread else {"label": label, "linestyle": style["linestyle"]}
                axes.axvline(values.mean(), color=style["color"], linewidth=0.8, alpha=0.6, **alone)
            axes.set_title(f"{task}, {counted(mine['sample_id'].nunique(), 'question')}")
            axes.set_xlabel("Spearman correlation with the reference")
            axes.set_xlim(-1, 1.02)
            # A selector that agrees almost perfectly must not flatten all others; its mean line shows where it is.
            axes.set_ylim(0, min(axes.get_ylim()[1], HIGHEST))
            axes.set_ylabel("density over images" if narrow or axes is panels[0] else "")
        add_legend(panels[-1], narrow)
    return True


def effective_ranks(tokens: pd.DataFrame, path: Path, narrow: bool = False) -> bool:
    """Effective rank of the kept set by arm, as bars with 95 % intervals over images; False without data.

    Args:
        tokens: from `token_rows.read_tokens`.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    if tokens.empty:
        return False
    table = averages(tokens)
    table = table[table["effective_rank"].notna() & (table["kept_tokens"] > 0)]
    if table.empty:
        return False
    budgets = list(dict.fromkeys(table["budget"].fillna("all")))
    with figure(path, (6.4, max(2.2, 0.19 * len(table) + 0.8)), narrow=narrow) as (axes,):
        places = np.arange(len(table))[::-1]
        colours = [
            GREY if b == "all" else COLOURS[budgets.index(b) % len(COLOURS)]
            for b in table["budget"].fillna("all")
        ]
        axes.barh(places, table["effective_rank"], xerr=table["effective_rank_se"], color=colours, height=0.7,
                  error_kw={"elinewidth": 0.8, "capsize": 2})  # fmt: skip
        labels = [shorten(str(arm), 26 if narrow else 48) for arm in table["arm"]]
        axes.set_yticks(places, labels, fontsize=7)
        axes.set_xlabel("effective rank of kept tokens" + ("" if narrow else ", mean over images"))
        axes.grid(axis="y", visible=False)
    return True


def shares(items: Sequence[MaskItem], arm: str) -> NDArray[np.float64] | None:
    """Share of the images in which each token was kept [rows, columns]; None where grids differ or none is there.

    Args:
        items: from `masks.read_masks`.
        arm: label under which the masks were recorded.
    """
    masks = [kept_mask(a.indices, item.grid) for item in items for a in item.arms if a.arm == arm]
    if not masks or len({mask.shape for mask in masks}) > 1:
        return None
    return np.asarray(np.mean(np.stack(masks), axis=0))


def positions(
    known: Mapping[str, NDArray[np.float64] | None], n_images: int, path: Path, narrow: bool = False
) -> bool:
    """How often each place of the token grid was kept, by arm; False where no arm drops tokens on a common grid.

    Args:
        known: arm -> its `shares`.
        n_images: number of images behind the shares.
        path: the common name of the files.
        narrow: layout for a phone.
    """
    shown = {arm: share for arm, share in known.items() if share is not None and 0 < share.mean() < 1}
    shown = dict(list(shown.items())[:MAX_ARMS])
    if not shown:
        return False
    columns = min(4, len(shown))
    with figure(path, (2.1, 2.35), len(shown), columns=columns, narrow=narrow) as panels:
        # An arm with fixed positions keeps a place always or never; its contrast must not hide the others'.
        top = min(1.0, 5 * max(float(share.mean()) for share in shown.values()))
        for axes in panels:
            axes.set_axis_off()
        for axes, (arm, share) in zip(panels, shown.items(), strict=False):
            axes.set_axis_on()
            image = axes.imshow(share, cmap="cividis", vmin=0, vmax=top)
            axes.set_title(textwrap.fill(shorten(arm, 64), 24 if narrow else 30), fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            thirds = [float(part.sum() / share.sum()) for part in np.array_split(share, 3, axis=0)]
            text = "top " + " / ".join(f"{100 * part:.0f}" for part in thirds) + " % bottom"
            axes.set_xlabel(text, fontsize=7)
        side = {"orientation": "horizontal", "aspect": 40} if narrow else {"shrink": 0.8}
        bar = panels[0].figure.colorbar(image, ax=panels, **side)
        bar.set_label(f"share of {n_images} images that keep this position", fontsize=7.5)
    return True

"""How often each place of the token raster was kept, by arm: position bias shows at a glance."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo_exp.report.figures.style import figure, shorten
from zoo_exp.report.masks import MaskItem, kept_mask

MAX_ARMS = 12


def shares(items: Sequence[MaskItem], arm: str) -> NDArray[np.float64] | None:
    """Share of the images in which each token was kept [rows, columns]; None where rasters differ or none is there.

    Args:
        items: from `mask_items.read_masks`.
        arm: label under which the masks were recorded.
    """
    masks = [kept_mask(a.indices, item.grid) for item in items for a in item.arms if a.arm == arm]
    if not masks or len({mask.shape for mask in masks}) > 1:
        return None
    return np.asarray(np.mean(np.stack(masks), axis=0))


def draw(known: Mapping[str, NDArray[np.float64] | None], n_images: int, path: Path) -> bool:
    """One raster per arm with its row profile; False where no arm drops anything on a common raster.

    Args:
        known: arm -> its `shares`.
        n_images: images that they are shares of.
        path: the files' common name.
    """
    shown = {arm: share for arm, share in known.items() if share is not None and 0 < share.mean() < 1}
    shown = dict(list(shown.items())[:MAX_ARMS])
    if not shown:
        return False
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    with figure(
        path, width=2.1 * columns + 0.7, height=2.25 * rows + 0.4, rows=rows, columns=columns
    ) as panels:
        # A fixed raster keeps a place always or never; its contrast must not hide the others'.
        top = min(1.0, 5 * max(float(share.mean()) for share in shown.values()))
        for axes in panels:
            axes.set_axis_off()
        for axes, (arm, share) in zip(panels, shown.items(), strict=False):
            axes.set_axis_on()
            image = axes.imshow(share, cmap="cividis", vmin=0, vmax=top)
            axes.set_title(textwrap.fill(shorten(arm, 64), 30), fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            thirds = [float(part.sum() / share.sum()) for part in np.array_split(share, 3, axis=0)]
            text = "top " + " / ".join(f"{100 * part:.0f}" for part in thirds) + " % bottom"
            axes.set_xlabel(text, fontsize=7)
        bar = panels[0].figure.colorbar(image, ax=panels, shrink=0.8)
        bar.set_label(f"share of {n_images} images that keep the place", fontsize=7.5)
    return True

"""The gallery of kept visual tokens: one row per question, one column per arm."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from zoo_exp.errors import InvalidValueError
from zoo_exp.report.files import atomic_path

# Okabe and Ito's palette: told apart with any colour vision; the sign says the same without colour.
RIGHT, WRONG, OUTLINE = "#00795a", "#c8480a", "#ffd75e"
CELL, GAP, HEAD, TITLE, FOOT, MARGIN = 1.5, 0.1, 0.42, 0.42, 0.26, 0.15  # inches
PIXELS = 360  # longest side of a picture before drawing


@dataclass(frozen=True)
class MaskArm:
    """What one arm kept of an image and answered."""

    arm: str
    indices: tuple[int, ...]
    response: str
    score: float


@dataclass(frozen=True)
class MaskItem:
    """One question about one image, under several arms.

    Attributes:
        task: name of the task.
        sample_id: the question's id.
        question: as asked.
        reference: the right answer.
        grid: rows and columns of the token raster.
        image: the picture as the model saw it.
        arms: in the order of the columns.
    """

    task: str
    sample_id: str
    question: str
    reference: str
    grid: tuple[int, int]
    image: Image.Image
    arms: tuple[MaskArm, ...]


def kept_mask(indices: Sequence[int], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """True where a token stays [rows, columns]; tokens are numbered row by row.

    Raises:
        InvalidValueError: an index outside the raster, or an empty raster.
    """
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise InvalidValueError(f"a token raster has at least one row and column, got {rows} x {columns}")
    mask = np.zeros(rows * columns, bool)
    outside = [index for index in indices if not 0 <= index < mask.size]
    if outside:
        raise InvalidValueError(
            f"kept token {outside[0]} lies outside the {rows} x {columns} raster: "
            f"allowed are 0 to {mask.size - 1}"
        )
    mask[list(indices)] = True
    return mask.reshape(rows, columns)


def overlay(image: Image.Image, mask: NDArray[np.bool_], pixels: int = PIXELS) -> NDArray[np.float64]:
    """The picture with dropped tokens darkened and greyed [height, width, 3], values 0 to 1."""
    scale = pixels / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    sharp = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    picture = np.asarray(image.convert("RGB").resize(size, sharp), float) / 255
    rows = np.arange(size[1]) * mask.shape[0] // size[1]
    columns = np.arange(size[0]) * mask.shape[1] // size[0]
    kept = mask[rows][:, columns][:, :, None]
    dark = 0.55 * picture + 0.45 * picture.mean(axis=2, keepdims=True)
    return np.where(kept, picture, 0.28 * dark)


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Line segments between kept and dropped tokens, in raster units [S, 2, 2] as ((x, y), (x, y))."""
    framed = np.pad(mask, 1)
    segments = []
    for row, column in np.argwhere(framed[:, 1:] != framed[:, :-1]):
        segments.append(((column, row - 1), (column, row)))
    for row, column in np.argwhere(framed[1:] != framed[:-1]):
        segments.append(((column - 1, row), (column, row)))
    return np.asarray(segments, float).reshape(-1, 2, 2)


def gallery(items: Sequence[MaskItem], path: Path, caption: str = "") -> None:
    """Draw the gallery as a PNG.

    Args:
        items: rows from top to bottom; their first one's arms name the columns, others may lack some.
        path: the file, replaced as a whole.
        caption: a line under the pictures.

    Raises:
        InvalidValueError: nothing to draw.
    """
    if not items or not items[0].arms:
        raise InvalidValueError("a mask gallery needs at least one question with one arm")
    columns = [arm.arm for arm in items[0].arms]
    heights = [CELL * min(1.6, max(0.4, item.image.height / item.image.width)) for item in items]
    width = 2 * MARGIN + len(columns) * (CELL + GAP) - GAP
    foot = 0.3 if caption else 0.0
    height = HEAD + sum(TITLE + h + FOOT for h in heights) + foot + MARGIN
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot, a figure needs its canvas by hand

    def write(x: float, y: float, text: str, size: float, **style: Any) -> None:
        # Questions are data: a dollar sign in one must not start a formula.
        figure.text(x / width, 1 - y / height, text, fontsize=size, parse_math=False, **style)

    for number, arm in enumerate(columns):
        centre = MARGIN + number * (CELL + GAP) + CELL / 2
        head = "\n".join(textwrap.wrap(_plain(arm), 20)[:2])
        write(centre, HEAD - 0.02, head, 8.5, ha="center", va="bottom", weight="bold")
    top = HEAD
    for item, row_height in zip(items, heights, strict=True):
        room = max(30, int(width * 13))
        line = f"{_plain(item.question)}  →  {_plain(item.reference)}"
        write(MARGIN, top + 0.22, _short(item.task, 30), 6.5, va="bottom", color="#666666")
        write(MARGIN, top + TITLE - 0.05, _short(line, room), 8.5, va="bottom", color="#111111")
        by_arm = {arm.arm: arm for arm in item.arms}
        for number, name in enumerate(columns):
            if name not in by_arm:
                continue
            left = MARGIN + number * (CELL + GAP)
            bottom = 1 - (top + TITLE + row_height) / height
            axes = figure.add_axes((left / width, bottom, CELL / width, row_height / height))
            _picture(axes, item, by_arm[name])
            right = by_arm[name].score >= 0.5
            answer = f"{'✓' if right else '✗'} {_short(_plain(by_arm[name].response) or '(empty)', 22)}"
            below = top + TITLE + row_height + 0.04
            colour = RIGHT if right else WRONG
            write(left + CELL / 2, below, answer, 8, ha="center", va="top", weight="bold", color=colour)
        top += TITLE + row_height + FOOT
    if caption:
        text = "\n".join(textwrap.wrap(caption, max(40, int(width * 17)))[:2])
        write(MARGIN, top + foot, text, 6.5, va="bottom", color="#555555")
    with warnings.catch_warnings(), atomic_path(path) as temporary:
        # A script that the font lacks is drawn as boxes; that is no reason to fail or to shout.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(str(temporary), format="png", metadata={"Software": None})


def _picture(axes: Axes, item: MaskItem, arm: MaskArm) -> None:
    rows, columns = item.grid
    mask = kept_mask(arm.indices, item.grid)
    axes.imshow(
        overlay(item.image, mask), extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest"
    )
    if not mask.all():
        axes.add_collection(LineCollection(list(outline(mask)), colors=OUTLINE, linewidths=0.9))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()
    axes.text(
        0.97,
        0.03,
        str(len(arm.indices)),
        transform=axes.transAxes,
        fontsize=6.5,
        color="white",
        ha="right",
        va="bottom",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.2, "linewidth": 0},
    )


def _plain(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"

"""Time to draw a mask gallery: Pillow (as the package draws it) against one matplotlib axes per tile.

The default size is the gallery of one budget in `+exp=ablation_fusion`: 9 questions, 6 arms, 12 x 12 tokens.

    python benchmarks/galleries.py
    python benchmarks/galleries.py --questions 9 --arms 12 --grid 24
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from zoo_exp.overlays import darkened, kept_mask, overlay, resized
from zoo_exp.report.gallery import draw_gallery
from zoo_exp.report.mask_items import MaskArm, MaskItem


def made_up_items(questions: int, arms: int, grid: int) -> list[MaskItem]:
    """Questions about noisy images, of which each arm keeps a ninth of the tokens."""
    generator = np.random.default_rng(0)
    tokens = grid * grid
    items = []
    for number in range(questions):
        coarse = generator.integers(0, 255, (12, 12, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((336, 336), Image.Resampling.BICUBIC)
        shown = [MaskArm("full", tuple(range(tokens)), "yes", 1.0)]
        for place in range(1, arms):
            kept = sorted(generator.permutation(tokens)[: tokens // 9].tolist())
            shown.append(MaskArm(f"selector {place} @16", tuple(kept), "no", float(place % 2)))
        question = "Is the white heart above or below the orange square?"
        items.append(MaskItem("task", str(number), question, "above", (grid, grid), image, tuple(shown)))
    return items


def with_matplotlib(items: Sequence[MaskItem], path: Path) -> None:
    """The same figure with one axes, one image and one line collection per tile."""
    columns = len(items[0].arms)
    width, height = 1.6 * columns + 0.3, 2.2 * len(items) + 0.6
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for row, item in enumerate(items):
        top = 0.45 + 2.2 * row
        figure.text(
            0.15 / width, 1 - (top + 0.4) / height, f"{item.question} → {item.reference}", fontsize=8.5
        )
        for column, arm in enumerate(item.arms):
            box = (0.15 + 1.6 * column) / width, 1 - (top + 1.95) / height, 1.5 / width, 1.5 / height
            axes = figure.add_axes(box)
            mask = kept_mask(arm.indices, item.grid)
            pixels = resized(item.image, (360, 360))
            extent = (0, item.grid[1], item.grid[0], 0)
            axes.imshow(overlay(pixels, darkened(pixels), mask), extent=extent)
            axes.add_collection(LineCollection(_segments(mask), colors="#ffd75e", linewidths=0.9))
            axes.set_axis_off()
            axes.text(0.97, 0.03, str(len(arm.indices)), transform=axes.transAxes, color="white", ha="right")
            centre = (0.9 + 1.6 * column) / width, 1 - (top + 2.1) / height
            figure.text(*centre, arm.response, fontsize=8, ha="center", weight="bold")
    figure.savefig(str(path), format="png")


def _segments(mask: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    framed = np.pad(mask, 1)
    across = [((c, r - 1), (c, r)) for r, c in np.argwhere(framed[:, 1:] != framed[:, :-1])]
    return across + [((c - 1, r), (c, r)) for r, c in np.argwhere(framed[1:] != framed[:-1])]


def seconds(draw: Callable[[], None], repeats: int) -> float:
    """Median of CPU seconds, which other work on the machine disturbs less than wall time."""
    draw()  # fonts are loaded once
    times = []
    for _ in range(repeats):
        started = time.process_time()
        draw()
        times.append(time.process_time() - started)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--arms", type=int, default=6)
    parser.add_argument("--grid", type=int, default=12, help="rows and columns of the token grid")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    items = made_up_items(args.questions, args.arms, args.grid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.png"
        after = seconds(lambda: draw_gallery(items, path), args.repeats)
        before = seconds(lambda: with_matplotlib(items, path), args.repeats)
    print(f"{args.questions} questions x {args.arms} arms, {args.grid} x {args.grid} tokens, CPU seconds")
    print(f"matplotlib, one axes per tile: {before:.3f} s")
    print(f"Pillow:                        {after:.3f} s")
    print(f"ratio: {before / after:.1f}x")


if __name__ == "__main__":
    main()

"""Draw docs/concepts.svg, the figure of the page Concepts: `python docs/draw_concepts.py`."""

import random
from pathlib import Path

FILE = Path(__file__).parent / "concepts.svg"
WIDTH, HEIGHT = 600, 764
INK, GREY, LINE, KEPT, DROPPED = "#0f172a", "#64748b", "#94a3b8", "#4f46e5", "#e2e8f0"
SIDE = 8
"""Tokens per side of the drawn grids."""
SPREAD = {0, 3, 7, 10, 13, 17, 22, 28, 32, 35, 39, 42, 47, 53, 56, 61}
"""What a selector that looks for diversity might keep."""


def text(x: float, y: float, words: str, size: int = 14, colour: str = INK, weight: str = "normal") -> str:
    """Centred text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="middle">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, *lines: str) -> str:
    """A box with one or two lines: what it is, and in small letters what it does."""
    middle, places = y + height / 2, {1: (5,), 2: (-4, 15)}[len(lines)]
    drawn = [text(x + width / 2, middle + places[n], line, 14 - 2 * n) for n, line in enumerate(lines)]
    rect = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" '
        f'stroke="{LINE}"/>'
    )
    return rect + "".join(drawn)


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head."""
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{GREY}" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )


def grid(x: float, y: float, kept: set[int], cell: float = 10) -> str:
    """Visual tokens in their raster, the dropped ones pale; `x` is the middle."""
    left = x - SIDE * cell / 2
    return "".join(
        f'<rect x="{left + n % SIDE * cell:g}" y="{y + n // SIDE * cell:g}" width="{cell - 1.5:g}" '
        f'height="{cell - 1.5:g}" fill="{KEPT if n in kept else DROPPED}"/>'
        for n in range(SIDE * SIDE)
    )


def figure() -> str:
    """The whole figure."""
    everything = set(range(SIDE * SIDE))
    drawn = set(random.Random(1).sample(sorted(everything), 16))
    arms = [("full", everything, "response: red"), ("zoo @16", SPREAD, "red"), ("random @16", drawn, "blue")]
    middle = WIDTH / 2
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>',
        f'<rect x="12" y="30" width="{WIDTH - 24}" height="508" rx="10" fill="none" stroke="{LINE}" '
        'stroke-dasharray="5 4"/>',
        text(middle, 22, "a cell: one model, one task, all arms", 13, GREY),
        box(
            130, 46, 340, 44, "#fef9c3", "questions and images", "a batch of the task, through the processor"
        ),
        arrow(middle, 90, middle, 112),
        box(130, 112, 340, 44, "#e0e7ff", "vision encoder and projector", "ONE vision pass for all arms"),
        arrow(middle, 156, middle, 178),
        grid(middle, 180, everything),
        text(middle + 130, 216, "visual tokens", 13, GREY),
        text(middle + 130, 233, "of an image", 13, GREY),
    ]
    for number, (name, kept, said) in enumerate(arms):
        x = 110 + 190 * number
        parts += [
            arrow(middle + (x - middle) * 0.15, 266, x, 300),
            text(x, 318, name, 14, INK, "bold"),
            grid(x, 328, kept),
            arrow(x, 412, x, 430),
            box(x - 80, 430, 160, 44, "#e0e7ff", "language model", "prefill, then decoding"),
            arrow(x, 474, x, 492),
            text(x, 510, said, 14),
            text(x, 527, "scored by the task", 12, GREY),
            arrow(x, 534, x + (middle - x) * 0.4, 562),
        ]
    parts += [
        box(90, 564, 420, 44, "#dcfce7", "records", "one row per question and arm, written once"),
        arrow(middle, 608, middle, 630),
        box(90, 630, 420, 44, "#dcfce7", "statistics", "metrics, paired intervals, exact tests"),
        arrow(middle, 674, middle, 700),
    ]
    for number, name in enumerate(("tables", "figures", "masks", "HTML page", "W&amp;B")):
        parts.append(box(20 + 114 * number, 704, 104, 40, "#f1f5f9", name))
    label = "One vision pass serves every arm; records are the only source of tables"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" font-family="Helvetica, Arial, sans-serif" role="img" aria-label="{label}">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


if __name__ == "__main__":
    FILE.write_text(figure(), encoding="utf-8")

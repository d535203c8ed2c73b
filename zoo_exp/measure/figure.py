"""Pictures of a bench: where the time goes, and score against latency (Figure A of the paper's supplement)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.files import replaced
from zoo_exp.measure.rows import Row, baseline_of, check_comparable
from zoo_exp.measure.stages import STAGES

COLOURS = dict(
    zip(
        STAGES,
        ("#bbbbbb", "#4477aa", "#66ccee", "#ee6677", "#aa3377", "#dddddd", "#228833", "#ccbb44"),
        strict=True,
    )
)
"""Paul Tol's bright scheme, which colour-blind readers can tell apart."""
PALETTE = ("#777777", "#ccbb44", "#4477aa", "#228833", "#ee6677", "#66ccee", "#aa3377", "#ee8866")
SIZES = (30.0, 420.0)
"""Areas of the smallest circle that can still be seen, and of the largest one."""


def stage_bars(rows: Sequence[Row], path: Path) -> None:
    """One bar per arm and batch size, made of the medians of its stages.

    Raises:
        InvalidValueError: rows that do not compare.
    """
    check_comparable(rows)
    shown = [row for row in rows if row.passes][::-1]
    several = len({row.batch_size for row in rows}) > 1
    plt, figure, axes = _figure(8, 1.2 + 0.3 * len(shown))
    names = [f"{row.arm}, batch {row.batch_size}" if several else row.arm for row in shown]
    left = [0.0] * len(shown)
    for stage in STAGES:
        widths = [row.times(stage).p50 for row in shown]
        if max(widths, default=0) > 0:
            axes.barh(names, widths, left=left, color=COLOURS[stage], label=stage, height=0.7)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("milliseconds of a batch (median)")
    axes.set_title(str(rows[0].conditions), fontsize=8, loc="left", wrap=True)
    axes.legend(
        fontsize=7,
        ncols=len(STAGES),
        loc="upper left",
        bbox_to_anchor=(0, -0.35 / figure.get_figheight() * 2),
    )
    _save(plt, figure, path)


def score_against_latency(
    rows: Sequence[Row], scores: Mapping[str, float], metric: str, path: Path
) -> list[str]:
    """Figure A: score over end-to-end latency relative to the unpruned model, area of a circle as its TFLOP.

    Args:
        rows: of one batch size.
        scores: arm -> score; arms that have none are left out.
        metric: what the score is, for the axis.
        path: of the picture.

    Returns:
        The arms that are shown.

    Raises:
        InvalidValueError: rows that do not compare.
    """
    check_comparable(rows)
    plt, figure, axes = _figure(7.4, 4.8)
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    points = [(row, *point) for row in rows if (point := _point(row, rows, scores)) is not None]
    largest = max((flops for *_, flops in points), default=1)
    for kind in kinds:
        mine = [point for point in points if _kind(point[0]) == kind]
        colour = PALETTE[kinds.index(kind) % len(PALETTE)]
        axes.plot([x for _, x, _, _ in mine], [y for _, _, y, _ in mine], color=colour, linewidth=1, zorder=1)
    for row, x, score, flops in sorted(points, key=lambda point: -point[-1]):  # small circles on top
        colour = PALETTE[kinds.index(_kind(row)) % len(PALETTE)]
        style: dict[str, Any] = {"linestyle": ":"} if row.noisy else {}
        area = _area(flops, largest)
        axes.scatter(
            [x], [score], s=area, color=colour, alpha=0.75, edgecolors="black", linewidths=0.7, **style
        )
        axes.annotate(row.budget or "all", (x, score), fontsize=6, ha="center", va="center")
    _legends(axes, [_kind(point[0]) for point in points], kinds, [flops for *_, flops in points])
    axes.set_xlabel("end-to-end latency relative to the unpruned model (selector included)")
    axes.set_ylabel(metric)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    noisy = "; dotted: noisy" if any(row.noisy for row, *_ in points) else ""
    title = f"{rows[0].conditions}; batch {rows[0].batch_size}; in a circle: visual tokens{noisy}"
    axes.set_title(title, fontsize=7, loc="left", wrap=True)
    _save(plt, figure, path)
    return [row.arm for row, *_ in points]


def _point(row: Row, rows: Sequence[Row], scores: Mapping[str, float]) -> tuple[float, float, int] | None:
    """Relative latency, score and FLOPs of an arm; None where one of them is not known."""
    base, score = baseline_of(row, rows), scores.get(row.arm, math.nan)
    if base is None or not row.passes or math.isnan(score) or row.flops is None:
        return None
    return row.times("end_to_end").p50 / base.times("end_to_end").p50, score, row.flops.total


def _area(flops: int, largest: int) -> float:
    return max(SIZES[0], SIZES[1] * flops / largest)


def _legends(axes: Any, shown: Sequence[str], kinds: Sequence[str], flops: Sequence[int]) -> None:
    """What the colours mean, and what the areas mean: the largest and the smallest circle."""
    style: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.7, "alpha": 0.75}
    options = {"loc": "upper left", "fontsize": 7, "frameon": False, "title_fontsize": 7, "alignment": "left"}
    for number, kind in enumerate(kinds):
        if kind in shown:
            axes.scatter([], [], s=60, color=PALETTE[number % len(PALETTE)], label=kind, **style)
    if not flops:
        return
    first = axes.legend(bbox_to_anchor=(1.01, 1), **options)
    axes.add_artist(first)
    areas = [
        axes.scatter([], [], s=_area(n, max(flops)), color="white", label=_short(n), **style)
        for n in (max(flops), min(flops))
    ]
    axes.legend(
        handles=areas,
        title="area: one answer",
        bbox_to_anchor=(1.01, 0.3),
        labelspacing=1.8,
        borderpad=1,
        **options,
    )


def _kind(row: Row) -> str:
    """The arm without its budget."""
    return row.arm.removesuffix(f" @{row.budget}")


def _short(flops: int) -> str:
    return f"{flops / 1e12:.2g} TFLOP" if flops >= 1e11 else f"{flops / 1e9:.2g} GFLOP"


def _figure(width: float, height: float) -> tuple[Any, Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height))
    return plt, figure, axes


def _save(plt: Any, figure: Any, path: Path) -> None:
    with replaced(path, sync=False) as file:
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)

"""What a benchmark of speed is written as: tables, the time by stage, and score against latency."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from zoo_exp.files import replaced, write_text
from zoo_exp.measure.bench_rows import Row, baseline_of, check_comparable
from zoo_exp.measure.stages import STAGES
from zoo_exp.report.figure_style import COLOURS, SETTINGS
from zoo_exp.report.renderers import csv_text, markdown, print_table
from zoo_exp.report.tables_bench import bench_columns, bench_table
from zoo_exp.runs.provenance import versions

STAGE_COLOURS = dict(
    zip(
        STAGES,
        ("#bbbbbb", "#4477aa", "#66ccee", "#ee6677", "#aa3377", "#dddddd", "#228833", "#ccbb44"),
        strict=True,
    )
)
"""Paul Tol's bright scheme, distinguishable with any colour vision."""
SIZES = (30.0, 420.0)
"""Areas of the smallest visible circle, and of the largest one."""


def write_bench(rows: Sequence[Row], folder: Path, scores: Mapping[str, float], metric: str) -> None:
    """Write bench.csv, bench.md, bench.json and stages.png; with scores also score_against_latency.png.

    Args:
        rows: measured under the same conditions.
        folder: where the files go.
        scores: arm -> score; may be empty.
        metric: what the score is.

    Raises:
        InvalidValueError: rows measured under different conditions.
    """
    write_text(folder / "bench.csv", csv_text(bench_columns(rows)))
    write_text(folder / "bench.md", markdown(bench_table(rows), heading="") + "\n")
    document = {"provenance": versions(), "rows": [row.as_dict() for row in rows]}
    write_text(folder / "bench.json", json.dumps(document, indent=1) + "\n")
    stage_bars(rows, folder / "stages.png")
    if scores:
        smallest = min(row.batch_size for row in rows)
        alone = [row for row in rows if row.batch_size == smallest]
        score_against_latency(alone, scores, metric, folder / "score_against_latency.png")


def show_bench(rows: Sequence[Row], console: Console) -> None:
    """Print the short table, with how it was measured."""
    print_table(bench_table(rows), console)


def stage_bars(rows: Sequence[Row], path: Path) -> None:
    """One stacked bar per arm and batch size: the medians of its stages.

    Raises:
        InvalidValueError: rows measured under different conditions.
    """
    check_comparable(rows)
    shown = [row for row in rows if row.passes][::-1]
    several = len({row.batch_size for row in rows}) > 1
    with _axes(path, 8, 1.2 + 0.3 * len(shown)) as axes:
        names = [f"{row.arm}, batch {row.batch_size}" if several else row.arm for row in shown]
        left = [0.0] * len(shown)
        for stage in STAGES:
            widths = [row.times(stage).p50 for row in shown]
            if max(widths, default=0) > 0:
                axes.barh(names, widths, left=left, color=STAGE_COLOURS[stage], label=stage, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_xlabel("milliseconds per batch (median)")
        axes.set_title(str(rows[0].conditions), fontsize=8, loc="left", wrap=True)
        axes.legend(
            fontsize=7,
            ncols=len(STAGES),
            loc="upper left",
            bbox_to_anchor=(0, -0.35 / axes.figure.get_figheight() * 2),
        )


def score_against_latency(
    rows: Sequence[Row], scores: Mapping[str, float], metric: str, path: Path
) -> list[str]:
    """Figure A: score over end-to-end latency relative to the unpruned model, area of a circle as its TFLOP.

    Args:
        rows: of one batch size.
        scores: arm -> score; arms without one are left out.
        metric: what the score is, for the axis.
        path: the file.

    Returns:
        The arms that are shown.

    Raises:
        InvalidValueError: rows measured under different conditions.
    """
    check_comparable(rows)
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    points = [(row, *point) for row in rows if (point := _point(row, rows, scores)) is not None]
    largest = max((flops for *_, flops in points), default=1)
    with _axes(path, 7.4, 4.8) as axes:
        for kind in kinds:
            mine = [point for point in points if _kind(point[0]) == kind]
            colour = COLOURS[kinds.index(kind) % len(COLOURS)]
            axes.plot(
                [x for _, x, _, _ in mine], [y for _, _, y, _ in mine], color=colour, linewidth=1, zorder=1
            )
        for row, x, score, flops in sorted(points, key=lambda point: -point[-1]):  # small circles on top
            colour = COLOURS[kinds.index(_kind(row)) % len(COLOURS)]
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
        title = f"{rows[0].conditions}; batch {rows[0].batch_size}; number in a circle: visual tokens{noisy}"
        axes.set_title(title, fontsize=7, loc="left", wrap=True)
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
    """One legend for the colours and one for the areas, with the largest and the smallest circle."""
    style: dict[str, Any] = {"edgecolors": "black", "linewidths": 0.7, "alpha": 0.75}
    options = {"loc": "upper left", "fontsize": 7, "frameon": False, "title_fontsize": 7, "alignment": "left"}
    for number, kind in enumerate(kinds):
        if kind in shown:
            axes.scatter([], [], s=60, color=COLOURS[number % len(COLOURS)], label=kind, **style)
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
        title="area: FLOPs per answer",
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


@contextmanager
def _axes(path: Path, width: float, height: float) -> Iterator[Axes]:
    """Axes to draw on; afterwards the figure is written to `path` as a PNG."""
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(drawn)
        yield drawn.subplots()
        with replaced(path, sync=False) as file:
            drawn.savefig(file, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})

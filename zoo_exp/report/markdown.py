"""results.md: the compact table, a table per task, and the paired differences."""

import math
from pathlib import Path

import pandas as pd

from zoo_exp.files import write_text
from zoo_exp.report import published_table
from zoo_exp.report.headline import headline
from zoo_exp.report.markdown_statistics import contribution, difficulty
from zoo_exp.report.markdown_table import bold, escape, table
from zoo_exp.report.published import CAPTION
from zoo_exp.report.tables import (
    DASH,
    display_scale,
    kept_count,
    method_lines,
    number,
    operations,
    signed,
    unique_short_names,
    with_interval,
)
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results

__all__ = ["escape", "render", "table", "write_markdown"]


def render(results: Results, masks: str | None = None) -> str:
    """The whole page; `masks` is the gallery's file name."""
    parts = [f"# {escape(results.experiment)}"]
    found = headline(results)
    if found is not None:
        parts.append(escape(" ".join(found.sentences())))
    parts.append(_compact(results))
    parts.append("\n".join(f"* {escape(line)}" for line in method_lines(results)))
    if masks:
        parts.append(f"![Kept visual tokens by arm]({masks})")
    if len(results.comparisons):
        parts += [
            "## Paired differences of Avg., best arm of each budget against the others",
            _pairs(results),
        ]
    parts += [*_published(results), *difficulty(results), *contribution(results)]
    for task in results.tasks:
        parts.append(_task(results, task))
    known = {key: value for key, value in results.provenance.items() if isinstance(value, (str, int, float))}
    if known:
        parts.append("## Provenance")
        parts.append(table(["what", "value"], [[escape(k), escape(v)] for k, v in known.items()], left=2))
    return "\n\n".join(parts) + "\n"


def write_markdown(results: Results, path: Path, masks: str | None = None) -> None:
    """Write `render` to `path`."""
    write_text(path, render(results, masks))


def _compact(results: Results) -> str:
    heads, costs = unique_short_names(results.tasks), operations(results)
    rows = []
    for arm, lines in results.lines.items():
        average = lines[AVERAGE]
        cells = [escape(arm), kept_count(average)]
        for task in results.tasks:
            line = lines[task]
            cells.append(bold(number(line["value"] * display_scale(results, task)), line["best"]))
        share = with_interval(average["retained"], average["retained_low"], average["retained_high"])
        score = with_interval(100 * average["value"], 100 * average["low"], 100 * average["high"])
        cells += [bold(escape(share), average["best"]), escape(score), number(average["select_ms"], 2)]
        cells += [number(average["prefill_decode_ms"], 2), *([] if costs is None else [costs[1][str(arm)]])]
        rows.append(cells)
    tasks = [escape(heads[task]) for task in results.tasks]
    last = [
        "Avg. retained %",
        "mean score %",
        "select ms",
        "generate ms",
        *([] if costs is None else costs[:1]),
    ]
    return table(["Arm", "kept", *tasks, *last], rows)


def _published(results: Results) -> list[str]:
    rows = [
        [f"*{escape(cell)}*" if key == "published" else escape(cell) for key, cell in line._asdict().items()]
        for line in published_table.lines(results)
    ]
    if not rows:
        return []
    heads = [escape(head) for head in published_table.HEADS]
    return [f"## {published_table.TITLE}", table(heads, rows, left=published_table.LEFT), CAPTION]


def _task(results: Results, task: str) -> str:
    part = results.frame[results.frame["task"] == task]
    first, scale = part.iloc[0], display_scale(results, task)
    rows = [
        [
            escape(line["arm"]),
            kept_count(line),
            bold(
                escape(with_interval(line["value"] * scale, line["low"] * scale, line["high"] * scale)),
                line["best"],
            ),
            escape(with_interval(line["retained"], line["retained_low"], line["retained_high"])),
            number(line["seed_sd"] * scale, 2),
            number(line["select_ms"], 2),
            number(line["prefill_decode_ms"], 2),
        ]
        for line in part.to_dict("records")
    ]
    unit = "%" if scale == 100 else "as the task gives it"
    head = (
        f"## {escape(task)}: {escape(first['metric'])} ({unit}), n = {first['n']}, {first['images']} images"
    )
    heads = ["Arm", "kept", "metric", "retained %", "seed sd", "select ms", "generate ms"]
    return f"{head}\n\n{table(heads, rows)}"


def _pairs(results: Results) -> str:
    rows = []
    for line in results.comparisons.to_dict("records"):
        difference = signed(line["difference"], line["low"], line["high"])
        tested = line["p_value"] is not None and not pd.isna(line["p_value"])
        counts = f"{line['only_arm_right']:.0f} : {line['only_against_right']:.0f}" if tested else DASH
        rows.append(
            [
                escape(line["arm"]),
                escape(line["against"]),
                bold(escape(difference), line["significant"]),
                number(line["detectable"]),
                counts,
                _p_value(line["p_value"]) if tested else DASH,
            ]
        )
    heads = ["best", "against", "difference", "detectable at 80 % power", "only best : only other right", "p"]
    legend = (
        "Differences in percentage points. p: exact McNemar test over all questions that are scored right or "
        "wrong; it takes questions as independent, the interval does not."
    )
    return f"{table(heads, rows, left=2)}\n\n{legend}"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return DASH
    return "\\< 0.001" if value < 0.001 else f"{value:.3f}"

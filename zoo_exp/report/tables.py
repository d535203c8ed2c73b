"""The tables of a run: cells as text, shared by the terminal and Markdown, and the csv and json files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_exp.files import write_text
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results

SHORT_NAMES = {
    "gqa": "GQA",
    "mmbench": "MMB",
    "mme": "MME",
    "pope": "POPE",
    "scienceqa": "SQA",
    "seedbench": "SEED",
    "textvqa": "TextVQA",
    "vqav2": "VQAv2",
    "mmmu": "MMMU",
}
DASH = "-"
ABOVE_BUDGET = "\u2021"
"""Marks measured tokens that are more than the budget names."""


def short_name(task: str) -> str:
    """A column head of at most 7 characters.

    >>> short_name("embedded_scienceqa"), short_name("textvqa_ocr")
    ('SQA', 'TextVQA')
    """
    plain = task.removeprefix("embedded_")
    for suffix in ("", "_val", "_img", "_en_dev", "_image", "_test", "_ocr"):
        if suffix and not plain.endswith(suffix):
            continue
        name = SHORT_NAMES.get(plain.removesuffix(suffix))
        if name:
            return name
    return plain[:7]


def unique_short_names(tasks: list[str]) -> dict[str, str]:
    """Column heads of several tasks; where two would be the same, both keep their full names."""
    short = {task: short_name(task) for task in tasks}
    taken = list(short.values())
    return {task: name if taken.count(name) == 1 else task for task, name in short.items()}


def number(value: float | None, digits: int = 1) -> str:
    """A number as a cell shows it; a dash for what is not known.

    >>> number(93.84), number(1862.4), number(float("nan"))
    ('93.8', '1862', '-')
    """
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its 95 % interval.

    >>> with_interval(85.1, 83, 87.24)
    '85.1 [83.0, 87.2]'
    """
    if math.isnan(value):
        return DASH
    if math.isnan(low) or low == high:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def signed(value: float, low: float, high: float) -> str:
    """A difference with its 95 % interval.

    >>> signed(1.25, -0.5, 3), signed(1.25, float("nan"), float("nan"))
    ('+1.2 [-0.5, +3.0]', '+1.2')
    """
    if math.isnan(value):
        return DASH
    return f"{value:+.1f}" if math.isnan(low) else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def count(value: float) -> str:
    """A mean number of tokens: whole where it is whole.

    >>> count(16.0), count(47.25)
    ('16', '47.2')
    """
    return f"{value:.0f}" if not math.isnan(value) and float(value).is_integer() else number(value)


def operations(results: Results) -> tuple[str, dict[str, str]] | None:
    """Column head and cell of each arm for what one answer costs; None for records that do not say it.

    TFLOP, or GFLOP where no arm reaches one TFLOP.
    """
    averages = results.frame[results.frame["task"] == AVERAGE].set_index("arm")["flops_tflop"]
    if averages.isna().all():
        return None
    unit, scale = ("TFLOP", 1.0) if averages.max() >= 1 else ("GFLOP", 1e3)
    return unit, {str(a): DASH if math.isnan(v) else f"{scale * v:.4g}" for a, v in averages.items()}


def display_scale(results: Results, task: str) -> float:
    """100 for metrics that run from 0 to 1, which tables show in percent; 1 for points (MME) and percents."""
    return results.scales[task]


def measured_tokens(line: Mapping[str, Any]) -> float:
    """A row's measured tokens: of layer selectors the mean over layers, else the tokens that entered."""
    layers = float(line["layer_tokens"])
    return float(line["kept_tokens"]) if math.isnan(layers) else layers


def kept_count(line: Mapping[str, Any]) -> str:
    """A row's measured tokens, marked where they are more than its budget names."""
    return count(measured_tokens(line)) + (ABOVE_BUDGET if line.get("above_budget") else "")


def method_lines(results: Results) -> list[str]:
    """How the numbers were computed, one sentence a line."""
    frame = results.frame
    averages = frame[frame["task"] == AVERAGE]
    lines = [
        "Metrics in percent, MME-like ones in points. Avg. is the retained average: the mean over tasks of "
        "metric / metric of full, in percent.",
        "[low, high] is a 95 % interval: paired bootstrap over images within tasks, "
        f"{results.draws} draws, seed {results.seed}. "
        "Proportions of one task have Wilson's interval, widened where questions share an image.",
        "kept: visual tokens that entered the language model, measured, mean over questions with an image "
        "(of layer selectors also over decoder layers). "
        "select: the selector's ms per question, median over batches. "
        "FLOP: of one answer, vision tower and selector included, from the shapes of all matrix products.",
        "Bold: better than every other arm of the same budget, "
        "the paired 95 % interval of each difference above 0.",
    ]
    if averages["above_budget"].any():
        lines.append(
            f"{ABOVE_BUDGET} keeps more visual tokens than its budget names (layer selectors: the mean over "
            "layers), so it is not compared within that budget."
        )
    spread = [
        f"{line['row']} {number(line['seed_sd'], 2)}"
        for line in averages.to_dict("records")
        if not math.isnan(line["seed_sd"])
    ]
    if spread:
        lines.append(f"Standard deviation of Avg. between seeds: {', '.join(spread)}.")
    full = averages[averages["selector"] == "full"]
    if len(full):
        row = full.iloc[0]
        mean = with_interval(100 * row["value"], 100 * row["low"], 100 * row["high"])
        over = f" over {len(results.tasks)} tasks" if len(results.tasks) > 1 else ""
        lines.append(f"Mean score of full{over}: {mean} %, n = {int(row['n'])}.")
    return lines + [f"Note: {note}." for note in results.notes]


def write_csv(results: Results, path: Path) -> None:
    """The whole frame, one line per arm and task; numbers with 6 significant digits, unknown ones empty.

    What has a published counterpart goes into a file of its own beside it, so that no row of ours is a paper's.
    """
    write_text(path, _csv(results.frame))
    beside = path.with_name(f"{path.stem}_published.csv")
    if len(results.published):
        write_text(beside, _csv(results.published))
    else:
        beside.unlink(missing_ok=True)


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_json(results: Results, path: Path) -> None:
    """Everything that a later report needs, as strict JSON (unknown numbers are null)."""
    document = {
        "experiment": results.experiment,
        "method": {"draws": results.draws, "seed": results.seed, "confidence": 0.95},
        "tasks": results.tasks,
        "rows": plain_rows(results.frame),
        "comparisons": plain_rows(results.comparisons),
        "contribution": plain_rows(results.contribution),
        "difficulty": plain_rows(results.difficulty),
        "published": plain_rows(results.published),
        "notes": results.notes,
        "provenance": results.provenance,
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON values: options as objects, nan as None."""
    rows = []
    for row in frame.astype(object).to_dict("records"):
        plain: dict[str, Any] = {}
        for key, value in row.items():
            native = value.item() if hasattr(value, "item") else value
            if isinstance(native, float):
                native = float(f"{native:.10g}") if math.isfinite(native) else None
            elif native is pd.NA or native is pd.NaT:
                native = None
            plain[str(key)] = json.loads(native) if key == "options" else native
        rows.append(plain)
    return rows

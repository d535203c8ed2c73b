"""The bench's rows as tables: a short one for people, and all columns for files."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from zoo_exp.measure.flops import REASONS
from zoo_exp.measure.rows import Row, baseline_of, check_comparable
from zoo_exp.measure.stages import STAGES

DASH = "-"
SHORT = ("Arm", "batch", "kept", "selector", "end to end", "selector %", "prefill x")
"""Columns for a narrow terminal."""
SUMS = ("selector", "ttft", "end_to_end", "decode_per_token")
NOTES = (
    "Times: median over the passes of one batch, in ms; p90 in bench.csv. Vision: tower, with what the selector "
    "captures from it. First token: from the vision tower to the first logits, selector included. End to end: "
    "preprocessing included.",
    "Prefill and end-to-end gains are against the arm `full` at the same batch size; the prefill's gain pays for the "
    "selector. FLOP: of one answer, all stages, 1 multiply-add = 2 FLOP. Memory: the highest peak of any stage above "
    "the model's own weights.",
    "(paper): the paper's formula, for comparison only: " + "; ".join(REASONS) + ".",
)


def cells(row: Row, rows: Sequence[Row]) -> dict[str, str]:
    """One line of the short table: column head -> text."""
    base = baseline_of(row, rows)
    unit, scale = _unit(rows)
    times = {name: row.times(name).p50 for name in (*STAGES, *SUMS)}
    share = row.selector_share.p50
    return {
        "Arm": row.arm,
        "batch": str(row.batch_size),
        "kept": _count(row.kept_tokens),
        "vision": _ms(times["vision"]),
        "projector": _ms(times["projector"]),
        "selector": _ms(times["selector"]),
        "prefill": _ms(times["prefill"] + times["prompt"]),
        "per token": _ms(times["decode_per_token"]),
        "first token": _ms(times["ttft"]),
        "end to end": _ms(times["end_to_end"]),
        "selector %": DASH if math.isnan(share) else f"{100 * share:.1f}",
        "prefill x": _gain(base, row, ("prefill", "prompt"), ("prefill", "prompt", "selector")),
        "end to end x": _gain(base, row, ("end_to_end",), ("end_to_end",)),
        unit: _scaled(None if row.flops is None else row.flops.total, scale),
        f"{unit} (paper)": _scaled(row.paper_flops, scale),
        "MiB": _count(max(row.memory_mib.values(), default=math.nan)),
        "remark": row.remark,
    }


def markdown(rows: Sequence[Row], escape: Callable[[object], str] = str) -> str:
    """The short table as Markdown, with how it was measured.

    Raises:
        InvalidValueError: rows that do not compare.
    """
    check_comparable(rows)
    lines = [cells(row, rows) for row in rows]
    heads = list(lines[0])
    if not any(line["remark"] for line in lines):
        heads.remove("remark")
    rule = [":--" if head in ("Arm", "remark") else "--:" for head in heads]
    table = [heads, rule, *([escape(line[head]) for head in heads] for line in lines)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    notes = "\n".join(f"* {escape(note)}" for note in (f"{rows[0].conditions}, {_repeats(rows)}.", *NOTES))
    return f"{text}\n\n{notes}\n"


def csv_text(rows: Sequence[Row]) -> str:
    """Every column: counts, p50 and p90 of every stage and sum, memory and FLOPs by stage.

    Raises:
        InvalidValueError: rows that do not compare.
    """
    check_comparable(rows)
    lines = [_all_columns(row, rows) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _all_columns(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    base = baseline_of(row, rows)
    line: dict[str, Any] = {
        **vars(row.conditions),
        "arm": row.arm,
        "selector": row.selector,
        "options": json.dumps(row.options, sort_keys=True),
        "budget": row.budget or "",
        "batch_size": row.batch_size,
        "repeats": len(row.passes),
        "n_visual": _number(row.n_visual),
        "kept_tokens": _number(row.kept_tokens),
        "layer_tokens": _number(row.layer_tokens),
        "prompt_tokens": row.prompt_tokens,
    }
    for name in (*STAGES, *SUMS):
        times = row.times(name)
        line[f"{name}_ms"] = _number(times.p50)
        line[f"{name}_p90_ms"] = _number(times.p90)
    line["first_selector_ms"] = _number(row.first_selector_ms)
    line["selector_share_of_ttft"] = _number(row.selector_share.p50)
    unpruned = math.nan if base is None else base.times("prefill").p50
    line["selector_share_of_unpruned_prefill"] = _number(row.times("selector").p50 / unpruned)
    line["prefill_gain"] = _gain(base, row, ("prefill", "prompt"), ("prefill", "prompt", "selector"))
    line["end_to_end_gain"] = _gain(base, row, ("end_to_end",), ("end_to_end",))
    line |= {f"{name}_peak_mib": _number(row.memory_mib.get(name, math.nan)) for name in STAGES}
    flops = row.flops
    for name in ("tower", "projector", "select", "prefill", "decode", "total"):
        line[f"{name}_tflop"] = _scaled(None if flops is None else getattr(flops, name))
    line["counted_by_torch_tflop"] = _scaled(row.counted_flops)
    line["paper_formula_tflop"] = _scaled(row.paper_flops)
    line["remark"] = row.remark
    return {key: "" if value == DASH else value for key, value in line.items()}


def _gain(base: Row | None, row: Row, before: Sequence[str], after: Sequence[str]) -> str:
    """How many times faster than the baseline, by medians."""
    if base is None or not row.passes:
        return DASH
    took = sum(row.times(name).p50 for name in after)
    return f"{sum(base.times(name).p50 for name in before) / took:.2f}" if took > 0 else DASH


def _repeats(rows: Sequence[Row]) -> str:
    most = max(len(row.passes) for row in rows)
    return f"{most} timed pass{'es' * (most > 1)} of every arm, in turn"


def _ms(value: float) -> str:
    if math.isnan(value):
        return DASH
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _count(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def _number(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.6g}"


def _unit(rows: Sequence[Row]) -> tuple[str, float]:
    """TFLOP, or GFLOP where the largest model of the table needs less than one TFLOP."""
    largest = max((row.flops.total for row in rows if row.flops is not None), default=0)
    return ("TFLOP", 1e12) if largest >= 1e12 else ("GFLOP", 1e9)


def _scaled(flops: int | None, unit: float = 1e12) -> str:
    return DASH if flops is None else f"{flops / unit:.4g}"

"""Tables of a benchmark of speed: a short one for people, and one with every column for files."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from zoo_exp.measure.bench_rows import Row, baseline_of, check_comparable
from zoo_exp.measure.cost_model import FLOPS_COLUMNS, REASONS
from zoo_exp.measure.stages import STAGES
from zoo_exp.report.tabular import DASH, USUALLY, Cell, Column, Line, Table, build, count

SUMS = ("selector", "ttft", "end_to_end", "decode_per_token")
PAPER = "(paper)"
NOTES = (
    "Times: median over the timed passes of one batch (90th percentile in bench.csv). vision: vision encoder, "
    "including what the selector captures from it. first token: from the vision encoder to the first logits, "
    "including the selector. end to end: including preprocessing.",
    "Speed-ups are relative to the arm full at the same batch size; that of the prefill includes the selector's time. "
    "GFLOP, TFLOP: FLOPs per answer over all stages, 1 multiply-add = 2 FLOPs. memory: highest peak of any stage "
    "above the model's weights.",
    f"{PAPER}: formula of the paper, for comparison only: " + "; ".join(REASONS) + ".",
)


def bench_table(rows: Sequence[Row]) -> Table:
    """One row per arm and batch size: tokens, times by stage, speed-ups, FLOPs and memory.

    Raises:
        InvalidValueError: rows measured under different conditions.
    """
    check_comparable(rows)
    unit, scale = _flops_unit(rows)
    columns = [
        Column("Arm", lambda line: line["row"].arm, left=True),
        Column("batch", _number(lambda row: row.batch_size, "{:.0f}".format)),
        Column("kept", _number(lambda row: row.kept_tokens, count)),
        Column("vision", _time("vision"), unit="ms", level=USUALLY),
        Column("projector", _time("projector"), unit="ms", level=USUALLY),
        Column("selector", _time("selector"), unit="ms"),
        Column("prefill", _time("prefill", "prompt"), unit="ms", level=USUALLY),
        Column("per token", _time("decode_per_token"), unit="ms", level=USUALLY),
        Column("first token", _time("ttft"), unit="ms", level=USUALLY),
        Column("end to end", _time("end_to_end"), unit="ms"),
        Column(
            "selector share",
            _number(lambda row: 100 * row.selector_share.p50, "{:.1f}".format),
            unit="%",
            level=USUALLY,
        ),
        Column("prefill speed-up", lambda line: line["prefill_gain"]),
        Column("end-to-end speed-up", lambda line: line["end_to_end_gain"]),
        Column("", lambda line: _scaled(line["flops"], scale), unit=unit, level=USUALLY),
        Column(
            "", lambda line: _scaled(line["row"].paper_flops, scale), unit=f"{unit} (paper)", level=USUALLY
        ),
        Column("memory", lambda line: count(line["memory"]), unit="MiB", level=USUALLY),
    ]
    lines = [
        {
            "row": row,
            "batch": row.batch_size,
            "prefill_gain": prefill_gain(row, rows),
            "end_to_end_gain": end_to_end_gain(row, rows),
            "flops": None if row.flops is None else row.flops.total,
            "memory": max(row.memory_mib.values(), default=math.nan),
        }
        for row in rows
    ]
    most = max(len(row.passes) for row in rows)
    passes = f"{most} timed pass{'es' * (most > 1)} per arm, interleaved"
    remarks = [f"{row.arm}, batch {row.batch_size}: {row.remark}." for row in rows if row.remark]
    notes = (*remarks, f"{rows[0].conditions}, {passes}.", *NOTES)
    return build("bench", "Speed, FLOPs and memory", columns, lines, notes=notes, group="batch")


def bench_columns(rows: Sequence[Row]) -> Table:
    """Every column: counts, p50 and p90 of every stage and sum, memory and FLOPs by stage; unknown ones are empty.

    Raises:
        InvalidValueError: rows measured under different conditions.
    """
    check_comparable(rows)
    lines = [_all_columns(row, rows) for row in rows]
    columns = [Column(name, _plain(name)) for name in lines[0]]
    return build("bench_columns", "Speed, FLOPs and memory", columns, lines)


def _plain(name: str) -> Callable[[Line], str]:
    return lambda line: "" if line[name] == DASH else str(line[name])


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
        "n_visual": _digits(row.n_visual),
        "kept_tokens": _digits(row.kept_tokens),
        "layer_tokens": _digits(row.layer_tokens),
        "prompt_tokens": row.prompt_tokens,
    }
    for name in (*STAGES, *SUMS):
        times = row.times(name)
        line[f"{name}_ms"] = _digits(times.p50)
        line[f"{name}_p90_ms"] = _digits(times.p90)
    line["first_selector_ms"] = _digits(row.first_selector_ms)
    line["selector_share_of_ttft"] = _digits(row.selector_share.p50)
    unpruned = math.nan if base is None else base.times("prefill").p50
    line["selector_share_of_unpruned_prefill"] = _digits(row.times("selector").p50 / unpruned)
    line["prefill_gain"] = prefill_gain(row, rows)
    line["end_to_end_gain"] = end_to_end_gain(row, rows)
    line |= {f"{name}_peak_mib": _digits(row.memory_mib.get(name, math.nan)) for name in STAGES}
    flops = row.flops
    for column, name in FLOPS_COLUMNS.items():
        line[column] = _scaled(None if flops is None else getattr(flops, name))
    line["counted_by_torch_tflop"] = _scaled(row.counted_flops)
    line["paper_formula_tflop"] = _scaled(row.paper_flops)
    line["remark"] = row.remark
    return line


def prefill_gain(row: Row, rows: Sequence[Row]) -> str:
    """Speed-up of the prefill, by medians, with the selector's time counted."""
    return _gain(row, rows, ("prefill", "prompt"), ("prefill", "prompt", "selector"))


def end_to_end_gain(row: Row, rows: Sequence[Row]) -> str:
    """Speed-up of the whole answer, by medians."""
    return _gain(row, rows, ("end_to_end",), ("end_to_end",))


def _gain(row: Row, rows: Sequence[Row], before: Sequence[str], after: Sequence[str]) -> str:
    base = baseline_of(row, rows)
    if base is None or not row.passes:
        return DASH
    took = sum(row.times(name).p50 for name in after)
    return f"{sum(base.times(name).p50 for name in before) / took:.2f}" if took > 0 else DASH


def _time(*names: str) -> Callable[[Line], Cell]:
    return _number(lambda row: sum(row.times(name).p50 for name in names), _milliseconds)


def _number(of: Callable[[Row], float], shown: Callable[[float], str]) -> Callable[[Line], Cell]:
    def cell(line: Line) -> Cell:
        value = of(line["row"])
        return Cell() if math.isnan(value) else Cell(shown(value), float(value))

    return cell


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _digits(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:.6g}"


def _flops_unit(rows: Sequence[Row]) -> tuple[str, float]:
    """TFLOP, or GFLOP where no row reaches one TFLOP."""
    largest = max((row.flops.total for row in rows if row.flops is not None), default=0)
    return ("TFLOP", 1e12) if largest >= 1e12 else ("GFLOP", 1e9)


def _scaled(flops: int | None, unit: float = 1e12) -> str:
    return DASH if flops is None else f"{flops / unit:.4g}"

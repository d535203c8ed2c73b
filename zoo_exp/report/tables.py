"""The tables of a run's results: one row per arm, over all tasks and for each task."""

import math
import re
from collections.abc import Callable
from typing import Any

from zoo_exp.report.tables_focus import focus_tables
from zoo_exp.report.tables_statistics import (
    claims_table,
    contribution_table,
    detail_table,
    difficulty_table,
    paired_table,
    published_table,
)
from zoo_exp.report.tabular import (
    ALWAYS,
    USUALLY,
    WIDE,
    Cell,
    Column,
    Line,
    Table,
    build,
    count,
    interval,
    known,
    number,
    text,
    value,
    with_interval,
)
from zoo_exp.statistics.contribution import contribution
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results
from zoo_exp.tasks import get as get_task
from zoo_exp.tasks import is_own_file
from zoo_exp.wording import counted

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
VIEW = re.compile(r"^(?:embedded|world2(?:_tiles|_sizes)?)_")
"""Start of the names of embedded tasks: world 1, or a view of world 2."""
ABOVE_BUDGET = "\u2021"
"""Marks measured token counts that exceed the budget."""
WITH_VARIANTS = ("zoo", "visionzip", "dart")
"""Selectors with an option `variant`: `paper` by default, or `official_code`."""
NOT_APPLICABLE = "n/a"
"""Stands for the metric of an arm that some questions of the task do not apply to; the notes say why."""
EQUAL_FLOPS = (
    "Layer selectors compared with the input selectors whose prefill, selector included, takes about as many FLOPs "
    "(within 15 %; of the budgets of an input selector the nearest one). At equal budgets a layer selector costs more, "
    "because its first layers see every visual token. Differences with paired 95 % intervals."
)
UNREADABLE = (
    "Share of responses without the kind of answer that the prompt asks for: yes/no questions answered with neither, "
    "options without a letter. They score as wrong or guessed. A selector's number says little where the model does "
    "not answer the question; open questions are not counted."
)
SOME_UNREADABLE = 0.01
"""Largest share from which on the table of unreadable responses is shown."""
SMALL_MODEL = 1.0
"""TFLOPs per answer below which a table shows GFLOPs."""


def run_tables(results: Results) -> list[Table]:
    """Every table of a run in the order of a document; those without rows are left out."""
    tables = [
        main_table(results),
        *focus_tables(results),
        claims_table(results),
        paired_table(results),
        equal_flops_table(results),
        published_table(results),
        difficulty_table(results),
        contribution_table(results),
        unreadable_table(results),
        *(task_table(results, task) for task in results.tasks),
        *(detail_table(results, task) for task in results.tasks),
    ]
    return [table for table in tables if table.rows]


def main_table(results: Results) -> Table:
    """One row per arm: measured tokens, each task's metric, retained average, mean score, times and FLOPs."""
    needed = contribution(results.frame, results.contribution)
    # Where every task needs the image, the column would repeat the retained average.
    some = needed is not None and 0 < len(needed.needing) < len(results.tasks)
    needing = needed.retained if needed is not None and some else {}
    lines = [
        {**by_task[AVERAGE], "by_task": by_task, "needing": needing.get(arm, math.nan)}
        for arm, by_task in results.lines.items()
    ]
    headers = unique_short_names(results.tasks)
    columns = [
        Column("Arm", text("arm"), left=True),
        Column("kept", kept),
        *(Column(headers[task], _metric(results, task), level=USUALLY) for task in results.tasks),
        Column(
            "Avg. retained",
            interval("retained", "retained_low", "retained_high", bold="best", bar=True),
            unit="%",
        ),
        Column("mean score", interval("value", "low", "high", scale=100), unit="%", level=WIDE),
        Column("Avg. needing the image", value("needing"), unit="%", level=WIDE, needs="needing"),
        Column("seed sd", value("seed_sd", 2), level=WIDE, needs="seed_sd"),
        Column("select", value("select_ms", 2), unit="ms"),
        Column("generate", value("prefill_decode_ms", 2), unit="ms", level=WIDE),
        Column("requests", value("requests_per_s", 1), unit="1/s", needs="requests_per_s"),
        flops_column(lines, "flops_tflop"),
        flops_column(lines, "prefill_tflop", "prefill", WIDE),
        flops_column(lines, "selector_tflop", "selector", WIDE),
    ]
    title = "Results"
    return build("results", title, columns, lines, notes=legend(results), group="budget")


def task_table(results: Results, task: str) -> Table:
    """One row per arm for a single task: its metric and what is retained of the full model's, with intervals."""
    lines = [by_task[task] for by_task in results.lines.values() if task in by_task]
    scale = display_scale(results, task)
    first = lines[0]
    declared = (results.units.get(task) or get_task(task).scale).unit
    unit = "%" if declared in ("fraction", "percent") else f"({declared})"
    columns = [
        Column("Arm", text("arm"), left=True),
        Column("kept", kept),
        Column(str(first["metric"]), interval("value", "low", "high", scale=scale, bold="best"), unit=unit),
        Column("retained", interval("retained", "retained_low", "retained_high"), unit="%"),
        Column("seed sd", value("seed_sd", 2, scale=scale), level=WIDE, needs="seed_sd"),
        Column("select", value("select_ms", 2), unit="ms"),
        Column("generate", value("prefill_decode_ms", 2), unit="ms", level=WIDE),
        Column("requests", value("requests_per_s", 1), unit="1/s", needs="requests_per_s"),
        flops_column(lines, "flops_tflop"),
    ]
    title = f"{task}: {first['metric']}, n = {counted(first['n'], 'question')}, {counted(first['images'], 'image')}"
    return build(f"task_{task}", title, columns, lines, group="budget", folded="Results for each task")


def equal_flops_table(results: Results) -> Table:
    """Layer selectors beside the input selectors whose prefill takes about as many FLOPs."""
    lines = results.equal_flops.to_dict("records")
    return build_equal_flops([{str(key): cell for key, cell in line.items()} for line in lines])


def build_equal_flops(lines: list[dict[str, Any]]) -> Table:
    """The same from lines with the columns of `statistics.equal_flops`."""
    both = [{"cost": line[key]} for line in lines for key in ("layer_tflop", "tflop")]
    flops = flops_column(both, "cost", "prefill")
    columns = [
        Column("layer selector", text("layer_arm"), left=True),
        Column(flops.header, lambda line: flops.cell({"cost": line["layer_tflop"]})),
        Column("Avg. retained", value("layer_retained"), unit="%"),
        Column("input selector", text("arm"), left=True),
        Column(flops.header, lambda line: flops.cell({"cost": line["tflop"]})),
        Column("Avg. retained", value("retained"), unit="%"),
        Column("difference", interval("difference", "low", "high", difference=True), unit="(points)"),
    ]
    title = "Equal FLOPs"
    return build("equal_flops", title, columns, lines, caption=EQUAL_FLOPS, folded=title)


def unreadable_table(results: Results) -> Table:
    """Share of unreadable responses by arm and task; no rows if no share reaches `SOME_UNREADABLE`."""
    lines: dict[str, dict[str, Any]] = {}
    tasks: list[str] = []
    for line in results.unreadable.to_dict("records"):
        lines.setdefault(str(line["arm"]), {"arm": line["arm"]})[str(line["task"])] = line["share"]
        tasks += [line["task"]] if line["task"] not in tasks else []
    some = any(line[task] >= SOME_UNREADABLE for line in lines.values() for task in tasks if task in line)
    headers = unique_short_names(tasks)
    columns = [Column("Arm", text("arm"), left=True)]
    columns += [Column(headers[task], value(task, scale=100.0), unit="%") for task in tasks]
    title = "Unreadable responses"
    chosen = list(lines.values()) if some else []
    return build("unreadable", title, columns, chosen, caption=UNREADABLE, folded=title)


def flops_column(lines: list[dict[str, Any]], key: str, name: str = "", level: int = ALWAYS) -> Column:
    """FLOPs per response, in TFLOP, or in GFLOP where no line reaches one TFLOP.

    Args:
        lines: of the table; their values decide the unit.
        key: a line's value in TFLOP.
        name: what is counted, if not all stages.
        level: see `Column`.
    """
    largest = max((line[key] for line in lines if known(line.get(key))), default=math.nan)
    unit, scale = ("TFLOP", 1.0) if largest >= SMALL_MODEL else ("GFLOP", 1e3)

    def cell(line: Line) -> Cell:
        if not known(line.get(key)):
            return Cell()
        shown = scale * float(line[key])
        return Cell(f"{shown:.4g}", shown)

    return Column(name, cell, unit=unit, level=level, needs=key)


def kept(line: Line) -> Cell:
    """Measured visual tokens of a row, marked where they exceed its budget."""
    shown = measured(line)
    return Cell(kept_count(line), shown if known(shown) else None)


def measured(line: Line) -> float:
    """What a budget limits: for layer selectors the mean over layers, else the tokens that entered."""
    layers = float(line["layer_tokens"])
    return float(line["kept_tokens"]) if math.isnan(layers) else layers


def kept_count(line: Line) -> str:
    """Measured visual tokens of a row as text, marked where they exceed its budget."""
    return count(measured(line)) + (ABOVE_BUDGET if line.get("above_budget") else "")


def _metric(results: Results, task: str) -> Callable[[Line], Cell]:
    cell = value("value", scale=display_scale(results, task), bold="best")
    none = {arm for name, arm in results.not_applicable if name == task}
    return lambda line: Cell(NOT_APPLICABLE) if line["arm"] in none else cell(line["by_task"][task])


def display_scale(results: Results, task: str) -> float:
    """Factor of a task's metric in a table: 100 for fractions, shown in percent; 1 for percents and points (MME)."""
    return results.scales[task]


def legend(results: Results) -> list[str]:
    """How the numbers were computed, one note each."""
    averages = results.frame[results.frame["task"] == AVERAGE]
    lines = [
        "Metrics in percent, MME in points. Avg. retained: mean over tasks of the metric relative to that of the full "
        "model, in percent.",
        "Brackets: 95 % confidence intervals. Averages: paired bootstrap over images within tasks "
        f"({results.draws} resamples, seed {results.seed}). Accuracy on a single task: Wilson's interval, corrected "
        "for clustering by image (design effect).",
        "kept: visual tokens that entered the language model, measured (mean over questions with an image; layer "
        "selectors: mean over decoder layers). select: time of the selector per question, median over batches. "
        "GFLOP, TFLOP: FLOPs per response, including vision encoder and selector (analytic count of matrix products).",
        "Bold: significantly better than every other arm at the same budget (all paired 95 % CIs exclude 0, and "
        "p < 0.05 after Holm's correction).",
    ]
    if set(averages["selector"]) & set(WITH_VARIANTS):
        lines.append(
            "Variants: zoo, visionzip and dart follow the paper, unless the label says official_code (as released)."
        )
    if averages["retained_low"].isna().any():
        lines.append("No brackets beside a retained average: it has no interval; a note says why.")
    if averages["above_budget"].any():
        lines.append(
            f"{ABOVE_BUDGET} keeps more visual tokens than its budget (layer selectors: mean over decoder layers), "
            "therefore not compared within that budget."
        )
    spread = [
        f"{line['row']} {number(line['seed_sd'], 2)}"
        for line in averages.to_dict("records")
        if not math.isnan(line["seed_sd"])
    ]
    if spread:
        lines.append(f"Standard deviation of Avg. retained across seeds: {', '.join(spread)}.")
    full = averages[averages["selector"] == "full"]
    if len(full):
        row = full.iloc[0]
        mean = with_interval(100 * row["value"], 100 * row["low"], 100 * row["high"])
        over = f" over {len(results.tasks)} tasks" if len(results.tasks) > 1 else ""
        lines.append(f"Mean score of the full model{over}: {mean} %, n = {int(row['n'])}.")
    return lines


def short_name(task: str) -> str:
    """A header of at most 7 characters; 12 for a user's own file.

    >>> short_name("embedded_scienceqa"), short_name("world2_tiles_gqa_confirm"), short_name("shop_items.jsonl")
    ('SQA', 'GQA', 'shop_items')
    """
    if is_own_file(task):
        return task.rpartition(".")[0][:12]
    plain = VIEW.sub("", task)
    for suffix in ("", "_confirm", "_validation", "_val", "_img", "_en_dev", "_image", "_test", "_ocr"):
        if suffix and not plain.endswith(suffix):
            continue
        name = SHORT_NAMES.get(plain.removesuffix(suffix))
        if name:
            return name
    return plain[:7]


def unique_short_names(tasks: list[str]) -> dict[str, str]:
    """Headers of several tasks; where two would be the same, both keep their full names."""
    short = {task: short_name(task) for task in tasks}
    taken = list(short.values())
    return {task: name if taken.count(name) == 1 else task for task, name in short.items()}

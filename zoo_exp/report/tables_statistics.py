"""Tables of a run's statistics: comparisons, published numbers, difficulty, image contribution, token analysis."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from zoo_exp.report.tabular import (
    DASH,
    USUALLY,
    WIDE,
    Cell,
    Column,
    Line,
    Table,
    build,
    interval,
    known,
    number,
    p_value,
    signed,
    text,
    value,
)
from zoo_exp.statistics.results import Results

PAIRED = (
    "Paired differences of Avg. retained in percentage points, with 95 % intervals; bold: the interval excludes 0 and "
    "the corrected p is below 0.05. "
    "detectable: smallest true difference found with 80 % power at this number of questions. p: exact sign test over "
    "the units of all tasks (arms of several seeds: twice the median p of their pairs); p (Holm): corrected for all "
    "comparisons of the budget."
)
CLAIMS = (
    "Each claim says that one arm retains more than another. yes: the paired 95 % interval of the difference of Avg. "
    "retained is above 0 and p < 0.05 after Holm's correction over all claims and budgets (exact sign test; arms of "
    "several seeds: twice the median p of their pairs); no: reversed: the same for the other arm; not shown: neither."
)
PUBLISHED = (
    "Published numbers (italics) are copied from the papers where model, benchmark, metric and budget agree. Averages "
    "are not compared: the papers average over two benchmarks that are measured differently here."
)
PAPER = "Averages that the paper reports in this table, without intervals: other images and other questions than ours."
DIFFICULTY = (
    '"Easy" at a budget: questions that the downsampling baseline (resize, same token count) answers correctly; '
    '"difficult": all others. retained: score summed over the questions of all tasks, in percent of the full '
    "model's, with a paired 95 % interval. Bold: significantly better than every other arm at the same budget."
)
CONTRIBUTION = (
    "Gain over the blind (no-image) arm; tasks with little gain say little about pruning. Paired 95 % intervals over "
    "images; bold: the interval excludes 0. Avg. needing the image: mean over the tasks with a relative gain of 0.5 or "
    "more."
)
TOKENS = "Compared with the first arm that scores tokens; ± is 1.96 standard errors over images."


def paired_table(results: Results) -> Table:
    """The best arm of each budget against every other arm of that budget."""
    columns = [
        Column("best arm", text("arm"), left=True),
        *paired_columns("best higher : other higher"),
    ]
    return build("paired", "Paired differences", columns, plain_lines(results.comparisons), caption=PAIRED)


def paired_columns(counts: str) -> list[Column]:
    """What a paired difference shows beside the arm: the other arm, the difference, and its tests."""
    return [
        Column("compared with", text("against"), left=True),
        Column(
            "difference",
            interval("difference", "low", "high", bold="significant", difference=True),
            unit="(points)",
        ),
        Column("detectable", value("detectable"), unit="(points)", level=USUALLY),
        Column(counts, _discordant, level=WIDE),
        Column("p", p_value("p_value")),
        Column("p (Holm)", p_value("p_holm"), needs="p_holm"),
    ]


def claims_table(results: Results) -> Table:
    """The experiment's claims: pairs of arms, their paired difference at each budget, and whether the claim holds."""
    return build_claims(plain_lines(results.claims))


def build_claims(lines: list[dict[str, Any]]) -> Table:
    """The table of claims from lines with the columns of `statistics.claims`."""
    columns = [
        Column("claim", text("claim"), left=True),
        Column("arm", text("arm"), left=True),
        Column("retained", value("retained"), unit="%", level=WIDE),
        Column("compared with", text("against"), left=True),
        Column("retained", value("retained_against"), unit="%", level=WIDE),
        Column("difference", interval("difference", "low", "high", difference=True), unit="(points)"),
        Column("p (Holm)", p_value("p_holm")),
        Column("holds", text("holds"), left=True),
    ]
    return build("claims", "Claims", columns, lines, caption=CLAIMS)


def _discordant(line: Line) -> str:
    if not known(line["p_value"]):
        return DASH
    return f"{line['only_arm_right']:.0f} : {line['only_against_right']:.0f}"


def published_table(results: Results) -> Table:
    """Our numbers beside those of the papers."""
    columns = [
        Column("arm", text("arm"), left=True),
        Column("task", text("task"), left=True),
        Column("ours", interval("ours", "low", "high")),
        Column("published", value("published", 2, published=True)),
        Column("ours - published", _difference),
        Column("within our interval", _within),
        Column("source", _source, left=True, level=WIDE),
    ]
    lines = plain_lines(results.published)
    protocols = sorted({str(line["model_protocol"]) for line in lines if "model_protocol" in line})
    title = "Published numbers beside ours" + (f" (protocol {', '.join(protocols)})" if protocols else "")
    return build("published", title, columns, lines, caption=PUBLISHED)


def _difference(line: Line) -> Cell:
    shown = float(line["difference"])
    return Cell(signed(shown, digits=2), shown)


def _within(line: Line) -> str:
    return (("no", "yes")[bool(line["within"])]) if known(line["low"]) else DASH


def _source(line: Line) -> str:
    return f"{line['source']}, table {line['table']} ({line['protocol']})"


def paper_table(averages: pd.DataFrame) -> Table:
    """The averages that a paper reports in the table that an experiment reproduces (`published.averages`)."""
    columns = [
        Column("method", text("method", published=True), left=True),
        Column("source", text("source", published=True), left=True),
        Column("model", text("model", published=True), left=True),
        Column("budget", value("budget", 0, published=True)),
        Column("kept", value("keep", scale=100, published=True), unit="%"),
        Column("Avg. retained", value("average", published=True), unit="%"),
    ]
    title = "What the paper reports"
    return build("paper", title, columns, plain_lines(averages), caption=PAPER, folded=title)


def difficulty_table(results: Results) -> Table:
    """What each arm retains of easy and of difficult questions, side by side."""
    lines: list[dict[str, Any]] = []
    if len(results.difficulty):
        for (budget, arm), part in results.difficulty.groupby(["budget", "arm"], sort=False):
            parts = {str(line["part"]): line for line in plain_lines(part)}
            lines.append({"arm": arm, "budget": budget, **parts})
    columns = [Column("Arm", text("arm"), left=True)]
    for name in ("easy", "difficult"):
        columns += [
            Column(f"{name} questions", _part(name, _questions), level=WIDE),
            Column(
                f"{name}: retained", _part(name, interval("retained", "low", "high", bold="best")), unit="%"
            ),
        ]
    title = "Easy and difficult questions"
    return build("difficulty", title, columns, lines, caption=DIFFICULTY, group="budget")


def _part(name: str, cell: Any) -> Any:
    return lambda line: cell(line[name]) if name in line else Cell()


def _questions(line: Line) -> Cell:
    return Cell(f"{line['n']} ({100 * line['share']:.0f} %)", float(line["n"]))


def contribution_table(results: Results) -> Table:
    """`full` against `blind` for each task."""
    lines = []
    for line in plain_lines(results.contribution):
        scale = results.scales[str(line["task"])]
        scaled = {key: scale * line[key] for key in ("full", "blind", "difference", "low", "high")}
        lines.append({**line, **scaled})
    columns = [
        Column("task", text("task"), left=True),
        Column("full", value("full")),
        Column("blind", value("blind")),
        Column(
            "full - blind",
            interval("difference", "low", "high", bold="significant", difference=True),
            unit="(points)",
        ),
        Column("(full - blind) / blind", interval("relative", "relative_low", "relative_high", digits=2)),
    ]
    return build("contribution", "Image contribution", columns, lines, caption=CONTRIBUTION)


YES = {
    "yes_rate": "yes_rate: share of the responses that are yes.",
    "pope_yes_ratio": "pope_yes_ratio: share of the reference answers that are yes, as in lmms-eval.",
}
"""Two metrics of POPE that are easily confused."""


def detail_table(results: Results, task: str) -> Table:
    """Metrics of a task besides the main one, and metrics of groups of its questions; no rows if there are none."""
    mine = results.details[results.details["task"] == task] if len(results.details) else results.details
    lines: dict[str, dict[str, Any]] = {}
    shown: dict[tuple[str, str], str] = {}
    for line in plain_lines(mine):
        key = str(line["group"]), str(line["metric"])
        shown[key] = str(line["unit"])
        lines.setdefault(str(line["arm"]), {"arm": line["arm"]})[key] = line["value"]
    columns = [Column("Arm", text("arm"), left=True)]
    for (group, metric), unit in shown.items():
        cell = value(
            (group, metric), scale=100.0 if unit == "fraction" else 1.0, digits=0 if unit == "answers" else 1
        )
        level = WIDE if group else USUALLY
        header = f"{group} {metric}".strip()
        columns.append(Column(header, cell, unit="%" if unit in ("fraction", "percent") else "", level=level))
    title = f"{task}: further metrics and groups of questions"
    notes = [note for metric, note in YES.items() if any(metric == one for _, one in shown)]
    return build(
        f"details_{task}", title, columns, list(lines.values()), notes=notes, folded="Further metrics"
    )


def token_table(averages: pd.DataFrame) -> Table:
    """Means of the token analysis by arm (`token_rows.averages`)."""
    columns = [
        Column("Arm", text("arm"), left=True),
        Column("images", value("images", 0)),
        Column("Spearman, all tokens", _with_error("spearman", 3)),
        Column("Spearman, scores above 0.5", _with_error("spearman_above", 3)),
        Column("overlap of kept sets", _with_error("overlap", 3)),
        Column("effective rank", _with_error("effective_rank", 2)),
        Column("kept", value("kept_tokens", 2)),
        Column("select", value("select_ms", 2), unit="ms"),
    ]
    title = "Token scores and kept sets"
    return build("tokens", title, columns, plain_lines(averages), caption=TOKENS)


def _with_error(key: str, digits: int) -> Any:
    def cell(line: Line) -> Cell:
        if not known(line[key]):
            return Cell()
        error = line.get(f"{key}_se", math.nan)
        more = f" ± {error:.{digits}f}" if known(error) else ""
        return Cell(number(line[key], digits) + more, float(line[key]))

    return cell


def facts_table(name: str, title: str, facts: Mapping[str, Any]) -> Table:
    """Names and values, such as the provenance of a run."""
    columns = [Column("what", text("what"), left=True), Column("value", text("value"), left=True)]
    lines = [{"what": key, "value": str(shown)} for key, shown in facts.items()]
    return build(name, title, columns, lines)


def plain_lines(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as mappings; empty for an empty frame."""
    return [{str(key): cell for key, cell in line.items()} for line in frame.to_dict("records")]

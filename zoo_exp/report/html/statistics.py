"""Tables of a run's statistics: paired differences, easy and difficult questions, image contribution."""

import pandas as pd

from zoo_exp.report.html.table import Cell, figure_cell, render
from zoo_exp.report.tables import display_scale, number, signed, with_interval
from zoo_exp.statistics.results import Results

DIFFICULTY = (
    "Easy at a budget: what the resize arm, the image made smaller until it has that many tokens, answers right. "
    "Retained: score summed over the questions of all tasks / the same of full, in percent, with a paired 95 % "
    "interval. Bold: better than every other arm of the budget, each paired interval above 0."
)
CONTRIBUTION = (
    "What the image adds: a task that the blind model answers as well says little about pruning. Paired 95 % "
    "intervals over images; bold: the interval leaves out 0. Tasks from 0.5 make up 'Avg. needing the image'."
)


def comparisons(table: pd.DataFrame) -> str:
    """The best arm of each budget against the others."""
    if table.empty:
        return ""
    rows: list[list[Cell | str]] = []
    for line in table.to_dict("records"):
        difference = signed(line["difference"], line["low"], line["high"])
        tested = line["p_value"] is not None and not pd.isna(line["p_value"])
        counts = f"{line['only_arm_right']:.0f} : {line['only_against_right']:.0f}" if tested else "-"
        p_value = Cell(f"{line['p_value']:.2g}", line["p_value"]) if tested else Cell("-")
        bold = bool(line["significant"])
        rows.append([line["arm"], line["against"], Cell(difference, line["difference"], bold=bold)])
        rows[-1] += [figure_cell(line["detectable"]), counts, p_value]
    heads = ["best of its budget", "against", "difference, points", "detectable at 80 %"]
    heads += ["only best : only other", "p (McNemar)"]
    caption = (
        "Paired differences of Avg. retained. Bold: the 95 % interval leaves out 0. Detectable: the smallest true "
        "difference that this many questions find with 80 % power. p: exact McNemar test over all questions that are "
        "scored right or wrong, which it takes as independent; rows that average seeds have none."
    )
    return "<h3>Paired differences</h3>" + render(heads, rows, caption, left=2)


def difficulty(table: pd.DataFrame) -> str:
    """What is retained of the easy and of the difficult questions, side by side."""
    if table.empty:
        return ""
    rows: list[list[Cell | str]] = []
    groups: list[str | None] = []
    for (budget, arm), part in table.groupby(["budget", "arm"], sort=False):
        row: list[Cell | str] = [Cell(str(arm))]
        for name in ("easy", "difficult"):
            lines = part[part["part"] == name].to_dict("records")
            if not lines:
                row += [Cell("-"), Cell("-")]
                continue
            (line,) = lines
            share = with_interval(line["retained"], line["low"], line["high"])
            row.append(Cell(f"{line['n']} ({100 * line['share']:.0f} %)", line["n"]))
            row.append(Cell(share, line["retained"], bold=bool(line["best"])))
        rows.append(row)
        groups.append(str(budget))
    heads = ["Arm", "easy questions", "easy: retained %", "difficult questions", "difficult: retained %"]
    return "<h3>Easy and difficult questions</h3>" + render(heads, rows, DIFFICULTY, groups=groups)


def image_contribution(results: Results) -> str:
    """Full against blind by task."""
    if results.contribution.empty:
        return ""
    rows: list[list[Cell | str]] = []
    for line in results.contribution.to_dict("records"):
        scale = display_scale(results, str(line["task"]))
        difference = signed(*(line[name] * scale for name in ("difference", "low", "high")))
        share = relative(line["relative"], line["relative_low"], line["relative_high"])
        rows.append([str(line["task"])])
        rows[-1] += [Cell(number(line[name] * scale), line[name] * scale) for name in ("full", "blind")]
        rows[-1].append(Cell(difference, line["difference"] * scale, bold=bool(line["significant"])))
        rows[-1].append(Cell(share, line["relative"]))
    heads = ["task", "full", "blind", "full - blind, points", "(full - blind) / blind"]
    return "<h3>Image contribution</h3>" + render(heads, rows, CONTRIBUTION)


def relative(value: float, low: float, high: float) -> str:
    """A relative contribution with its interval.

    >>> relative(1.25, 0.9, 1.6), relative(float("inf"), float("nan"), float("nan"))
    ('1.25 [0.90, 1.60]', 'inf')
    """
    if value != value:
        return "-"
    if low != low:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"

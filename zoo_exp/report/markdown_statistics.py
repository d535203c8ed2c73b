"""Easy and difficult questions and the image's contribution, in Markdown."""

from zoo_exp.report.html.statistics import CONTRIBUTION, DIFFICULTY, relative
from zoo_exp.report.markdown_table import bold, escape, table
from zoo_exp.report.tables import DASH, display_scale, number, signed, with_interval
from zoo_exp.statistics.results import Results


def difficulty(results: Results) -> list[str]:
    """Heading, table and legend; nothing without a resize arm."""
    if results.difficulty.empty:
        return []
    rows = []
    for (_, arm), part in results.difficulty.groupby(["budget", "arm"], sort=False):
        cells = [escape(arm)]
        for name in ("easy", "difficult"):
            lines = part[part["part"] == name].to_dict("records")
            for line in lines:
                share = escape(with_interval(line["retained"], line["low"], line["high"]))
                cells += [f"{line['n']} ({100 * line['share']:.0f} %)", bold(share, line["best"])]
            cells += [] if lines else [DASH, DASH]
        rows.append(cells)
    heads = ["Arm", "easy questions", "easy: retained %", "difficult questions", "difficult: retained %"]
    return ["## Easy and difficult questions", table(heads, rows), DIFFICULTY]


def contribution(results: Results) -> list[str]:
    """Heading, table and legend; nothing without a full and a blind arm."""
    if results.contribution.empty:
        return []
    rows = []
    for line in results.contribution.to_dict("records"):
        scale = display_scale(results, str(line["task"]))
        difference = signed(*(line[name] * scale for name in ("difference", "low", "high")))
        share = relative(line["relative"], line["relative_low"], line["relative_high"])
        cells = [escape(line["task"]), number(line["full"] * scale), number(line["blind"] * scale)]
        rows.append([*cells, bold(escape(difference), line["significant"]), escape(share)])
    heads = ["task", "full", "blind", "full - blind, points", "(full - blind) / blind"]
    return ["## Image contribution", table(heads, rows), CONTRIBUTION]

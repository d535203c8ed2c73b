"""The table of a run in LaTeX (booktabs), bold where the difference is significant."""

import math
import re
from pathlib import Path
from typing import Any

from zoo_exp.report.files import write_text_atomic
from zoo_exp.report.frame import AVERAGE
from zoo_exp.report.results import Results
from zoo_exp.report.tables import ABOVE_BUDGET, display_scale, kept_count, number, unique_short_names

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape(text: object) -> str:
    r"""Text that LaTeX prints as it is, on one line.

    >>> print(escape("zoo_exp 11.1% {a}^2"))
    zoo\_exp 11.1\% \{a\}\textasciicircum{}2
    """
    one_line = " ".join(str(text).split())
    return re.sub(r"[\\~^&%$#_{}]", lambda match: SPECIAL[match.group()], one_line)


def render(results: Results, model: str = "") -> str:
    """A floating table: arm, kept tokens, one column per task, retained average with its interval."""
    heads = unique_short_names(results.tasks)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        r"\begin{tabular}{lr" + "r" * len(results.tasks) + "r}",
        r"\toprule",
        " & ".join(["Arm", "kept", *(escape(heads[task]) for task in results.tasks), r"Avg.\ retained"])
        + r" \\",
        r"\midrule",
    ]
    budget: object = None
    for position, (arm, rows) in enumerate(results.lines.items()):
        average = rows[AVERAGE]
        if position and average["budget"] != budget:
            lines.append(r"\midrule")
        budget = average["budget"]
        cells = [escape(arm), kept_count(average).replace(ABOVE_BUDGET, r"$^\ddagger$")]
        cells += [
            _bold(number(rows[task]["value"] * display_scale(results, task)), rows[task]["best"])
            for task in results.tasks
        ]
        cells.append(_bold(_retained(average), average["best"]))
        lines.append(" & ".join(cells) + r" \\")
    caption = (
        f"{escape(results.experiment)}{f' on {escape(model)}' if model else ''}. Metrics in percent (MME in points); "
        r"Avg.: mean over tasks of metric / metric of full, in percent, with its 95\,\% interval (paired bootstrap "
        f"over images, {results.draws} draws). Bold: better than every other arm of the budget, each paired "
        "interval above zero."
        + (
            r" $\ddagger$: keeps more visual tokens than its budget names, and is not compared within it."
            if results.frame["above_budget"].any()
            else ""
        )
    )
    label = re.sub(r"[^A-Za-z0-9-]", "-", results.experiment)
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def write_latex(results: Results, path: Path, model: str = "") -> None:
    """Write `render` to `path`."""
    write_text_atomic(path, render(results, model))


def _retained(row: dict[str, Any]) -> str:
    if math.isnan(row["retained"]):
        return "--"
    text = number(row["retained"])
    if math.isnan(row["retained_low"]) or row["retained_low"] == row["retained_high"]:
        return text
    return rf"{text} {{\scriptsize[{number(row['retained_low'])}, {number(row['retained_high'])}]}}"


def _bold(text: str, yes: object) -> str:
    return rf"\textbf{{{text}}}" if yes else text

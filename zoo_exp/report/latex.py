"""The tables of a run in LaTeX (booktabs): bold where the difference is significant, italic where published."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.files import write_text
from zoo_exp.report import published_table
from zoo_exp.report.published import CAPTION
from zoo_exp.report.tables import ABOVE_BUDGET, display_scale, kept_count, number, unique_short_names
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other signs in the font encoding that LaTeX starts with.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # At the start of a row they would be an option of the row's end before it.
    **{character: f"{{{character}}}" for character in "[]*"},
}


def escape(text: object) -> str:
    r"""Text that LaTeX prints as it is, on one line, without control characters.

    >>> print(escape("zoo_exp 11.1% {a}^2"), escape("[x] -> *"))
    zoo\_exp 11.1\% \{a\}\textasciicircum{}2 {[}x{]} -\textgreater{} {*}
    """
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    return "".join(SPECIAL.get(character, character) for character in " ".join(plain.split()))


def render(results: Results, model: str = "") -> str:
    """A floating table of arm, kept tokens, one column per task, retained average with its interval.

    A second one holds the published numbers, where there are some to stand beside ours.
    """
    label = re.sub(r"[^A-Za-z0-9-]", "-", results.experiment)
    name = f"{escape(results.experiment)}{f' on {escape(model)}' if model else ''}"
    tables = ["% needs \\usepackage{booktabs}\n", _results(results, name, label)]
    if len(results.published):
        tables.append(_published(results, name, label))
    return "".join(tables)


def write_latex(results: Results, path: Path, model: str = "") -> None:
    """Write `render` to `path`."""
    write_text(path, render(results, model))


def _results(results: Results, name: str, label: str) -> str:
    heads = unique_short_names(results.tasks)
    rows: list[str] = []
    budget: object = None
    for position, (arm, lines) in enumerate(results.lines.items()):
        average = lines[AVERAGE]
        if position and average["budget"] != budget:
            rows.append(r"\midrule")
        budget = average["budget"]
        cells = [escape(arm), kept_count(average).replace(ABOVE_BUDGET, r"$^\ddagger$")]
        cells += [
            _bold(number(lines[task]["value"] * display_scale(results, task)), lines[task]["best"])
            for task in results.tasks
        ]
        rows.append(_row([*cells, _bold(_retained(average), average["best"])]))
    caption = (
        f"{name}. Metrics in percent (MME in points); "
        r"Avg.: mean over tasks of metric / metric of full, in percent, with its 95\,\% interval (paired bootstrap "
        f"over images, {results.draws} draws). Bold: better than every other arm of the budget, each paired "
        "interval above zero."
        + (
            r" $\ddagger$: keeps more visual tokens than its budget names, and is not compared within it."
            if results.frame["above_budget"].any()
            else ""
        )
    )
    columns = ["Arm", "kept", *(escape(heads[task]) for task in results.tasks), r"Avg.\ retained"]
    return _table(columns, "l" + "r" * (len(columns) - 1), rows, caption, label)


def _published(results: Results, name: str, label: str) -> str:
    rows = [
        _row(
            rf"\textit{{{escape(cell)}}}" if key == "published" else escape(cell)
            for key, cell in line._asdict().items()
        )
        for line in published_table.lines(results)
    ]
    heads = [escape(head) for head in published_table.HEADS]
    kinds = "l" * published_table.LEFT + "r" * (len(heads) - published_table.LEFT - 1) + "l"
    return _table(heads, kinds, rows, f"{name}. {escape(CAPTION)}", f"{label}-published")


def _table(heads: Sequence[str], kinds: str, rows: Sequence[str], caption: str, label: str) -> str:
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _row(heads),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _retained(row: dict[str, Any]) -> str:
    if math.isnan(row["retained"]):
        return "--"
    text = number(row["retained"])
    if math.isnan(row["retained_low"]) or row["retained_low"] == row["retained_high"]:
        return text
    return rf"{text} {{\scriptsize[{number(row['retained_low'])}, {number(row['retained_high'])}]}}"


def _bold(text: str, yes: object) -> str:
    return rf"\textbf{{{text}}}" if yes else text

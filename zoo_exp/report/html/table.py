"""Tables that sort by a click on a head."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo_exp.report.tables import number


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown; it is escaped here and nowhere else.
        value: what the column sorts by; the text where there is no number.
        bold: significantly best.
        published: copied from a paper, and shown so.
        bar: drawn over a bar as long as the value, in percent.
        link: slug of the section that it leads to.
    """

    text: str
    value: float | None = None
    bold: bool = False
    published: bool = False
    bar: bool = False
    link: str = ""


def escape(text: object) -> str:
    """Text for HTML, attributes included.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(str(text), quote=True)


def figure_cell(value: float, text: str | None = None) -> Cell:
    """A number as a cell; a dash for what is not known."""
    return Cell(number(value) if text is None else text, None if value != value else float(value))


def render(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    caption: str = "",
    left: int = 1,
    groups: Sequence[str | None] = (),
) -> str:
    """A table.

    Args:
        heads: of the columns.
        rows: cells, row by row.
        caption: what a reader must know.
        left: the first so many columns are text, the others numbers.
        groups: budget of each row, for the buttons that show one budget at a time; rows without one always show.
    """
    parts = ['<div class="scroll" tabindex="0"><table class="sortable">']
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    parts.append("<thead><tr>")
    for place, head in enumerate(heads):
        kind = ' class="text"' if place < left else ""
        parts.append(
            f'<th scope="col"{kind} aria-sort="none"><button type="button">{escape(head)}</button></th>'
        )
    parts.append("</tr></thead><tbody>")
    budgets = [*groups, *([None] * (len(rows) - len(groups)))]
    before: str | None = None
    for place, (row, budget) in enumerate(zip(rows, budgets, strict=True)):
        known = budget is not None and budget == budget  # pandas makes nan of None
        first = ' class="first"' if groups and place and budget != before else ""
        parts.append(f'<tr data-b="{escape(budget)}"{first}>' if known else f"<tr{first}>")
        before = budget
        parts += [_cell(cell, column < left) for column, cell in enumerate(row)]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _cell(cell: Cell | str, text: bool) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    classes = [
        name
        for name, on in (
            ("text", text),
            ("best", cell.bold),
            ("published", cell.published),
            ("bar", cell.bar),
        )
        if on
    ]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    known = cell.value is not None and not math.isnan(cell.value)
    value = f' data-v="{cell.value!r}"' if known else ""
    inner = escape(cell.text)
    if cell.link:
        inner = f'<a href="#{escape(cell.link)}">{inner}</a>'
    bar = ""
    if cell.bar and known and cell.value is not None:
        bar = f' style="--bar:{min(100.0, max(0.0, cell.value)):.1f}%"'
    return f"<td{kind}{value}{bar}>{inner}</td>"

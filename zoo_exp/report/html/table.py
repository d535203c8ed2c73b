"""Tables that sort by a click on a head."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown; it is escaped here and nowhere else.
        value: what the column sorts by; the text where there is no number.
        bold: significantly best.
        published: copied from a paper, and shown so.
    """

    text: str
    value: float | None = None
    bold: bool = False
    published: bool = False


def escape(text: object) -> str:
    """Text for HTML, attributes included.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(str(text), quote=True)


def render(
    heads: Sequence[str], rows: Sequence[Sequence[Cell | str]], caption: str = "", left: int = 1
) -> str:
    """A table; the first `left` columns are text, the others numbers."""
    parts = ['<div class="scroll"><table class="sortable">']
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    parts.append("<thead><tr>")
    for number, head in enumerate(heads):
        kind = ' class="text"' if number < left else ""
        parts.append(
            f'<th scope="col"{kind} aria-sort="none"><button type="button">{escape(head)}</button></th>'
        )
    parts.append("</tr></thead><tbody>")
    for row in rows:
        parts.append("<tr>")
        parts += [_cell(cell, number < left) for number, cell in enumerate(row)]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _cell(cell: Cell | str, text: bool) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    classes = [
        name for name, on in (("text", text), ("best", cell.bold), ("published", cell.published)) if on
    ]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    known = cell.value is not None and not math.isnan(cell.value)
    value = f' data-v="{cell.value!r}"' if known else ""
    return f"<td{kind}{value}>{escape(cell.text)}</td>"

"""A table as data: columns, cells as text with the number behind them, caption and notes. `renderers` draws it."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

DASH = "-"
"""What is not known."""
ALWAYS, USUALLY, WIDE = 0, 1, 2
"""Levels of a column: never left out; left out on a narrow terminal; left out there first, and in LaTeX."""

Line = Mapping[Any, Any]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown, unescaped; each renderer escapes it.
        value: the number behind the text, which the HTML page sorts by; None where there is none.
        bold: significant.
        published: copied from a paper; shown in italics.
        bar: HTML draws a bar as long as the value, in percent, behind the text.
        link: id of the page's section that the cell leads to.
    """

    text: str = DASH
    value: float | None = None
    bold: bool = False
    published: bool = False
    bar: bool = False
    link: str = ""


@dataclass(frozen=True)
class Column:
    """One column: its header, and how a cell is made from a line of data.

    Attributes:
        name: header without the unit.
        cell: line -> cell (or text); the functions of this module make it: `text`, `value`, `interval`, ...
        unit: of the numbers; part of the header.
        left: text, aligned to the left and sorted alphabetically; numbers otherwise.
        level: `ALWAYS`, `USUALLY` or `WIDE`.
        needs: key of a line; the column is left out where no line has a value for it.
    """

    name: str
    cell: Callable[[Line], Cell | str]
    unit: str = ""
    left: bool = False
    level: int = ALWAYS
    needs: str = ""

    @property
    def header(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit}".strip()


@dataclass(frozen=True)
class Table:
    """One table, complete: every renderer shows the same headers, cells, caption and notes.

    Attributes:
        name: for files and anchors.
        title: heading.
        columns: from left to right.
        rows: cells, one per column.
        caption: what a reader must know to read the numbers.
        notes: more of it, one sentence or two per note.
        groups: budget of each row, or None: rows of one budget stand together, and the page filters by it.
        folded: label of the part of the page that shows it on demand; empty for a table that is always shown.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    groups: tuple[str | None, ...] = ()
    folded: str = ""

    @property
    def headers(self) -> list[str]:
        """The headers of the columns."""
        return [column.header for column in self.columns]

    def up_to(self, level: int) -> "Table":
        """The table without the columns above a level."""
        kept = [place for place, column in enumerate(self.columns) if column.level <= level]
        columns = tuple(self.columns[place] for place in kept)
        return replace(
            self, columns=columns, rows=tuple(tuple(row[place] for place in kept) for row in self.rows)
        )

    def starts_group(self, row: int) -> bool:
        """Whether a row has another budget than the one above it."""
        return bool(self.groups) and row > 0 and self.groups[row] != self.groups[row - 1]


def build(
    name: str,
    title: str,
    columns: Iterable[Column],
    lines: Sequence[Line],
    *,
    caption: str = "",
    notes: Sequence[str] = (),
    group: str = "",
    folded: str = "",
) -> Table:
    """Make a table from lines of data.

    Args:
        name: for files and anchors.
        title: heading.
        columns: what each line shows; those whose `needs` no line has are left out.
        lines: one per row.
        caption: see `Table`.
        notes: see `Table`.
        group: key of a line's budget.
        folded: see `Table`.
    """
    shown = tuple(c for c in columns if not c.needs or any(known(line.get(c.needs)) for line in lines))
    rows = tuple(tuple(_as_cell(column.cell(line)) for column in shown) for line in lines)
    budgets = [line.get(group) for line in lines] if group else []
    groups = tuple(str(budget) if known(budget) else None for budget in budgets)
    return Table(name, title, shown, rows, caption, tuple(notes), groups, folded)


def _as_cell(made: Cell | str) -> Cell:
    return made if isinstance(made, Cell) else Cell(made)


def known(value: Any) -> bool:
    """Whether there is a value: neither None nor nan.

    >>> known(0.0), known(None), known(float("nan"))
    (True, False, False)
    """
    return value is not None and value == value


def number(value: float | None, digits: int = 1) -> str:
    """A number as a cell shows it; a dash for what is not known.

    >>> number(93.84), number(1862.4), number(float("nan"))
    ('93.8', '1862', '-')
    """
    if value is None or math.isnan(value):
        return DASH
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 1) -> str:
    """A number with its 95 % interval.

    >>> with_interval(85.1, 83, 87.24), with_interval(1.25, 0.9, 1.6, digits=2)
    ('85.1 [83.0, 87.2]', '1.25 [0.90, 1.60]')
    """
    if math.isnan(value):
        return DASH
    if math.isnan(low) or low == high:
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def signed(value: float, low: float = math.nan, high: float = math.nan, digits: int = 1) -> str:
    """A difference, with its 95 % interval where that is known.

    >>> signed(1.25, -0.5, 3), signed(-0.531, digits=2)
    ('+1.2 [-0.5, +3.0]', '-0.53')
    """
    if math.isnan(value):
        return DASH
    shown = f"{value:+.{digits}f}"
    return shown if math.isnan(low) else f"{shown} [{low:+.{digits}f}, {high:+.{digits}f}]"


def count(value: float) -> str:
    """A mean number of tokens: whole where it is whole.

    >>> count(16.0), count(47.25)
    ('16', '47.2')
    """
    return f"{value:.0f}" if not math.isnan(value) and float(value).is_integer() else number(value)


def p_text(value: float | None) -> str:
    """A p-value with three decimals.

    >>> p_text(0.0441), p_text(2e-9), p_text(None)
    ('0.044', '< 0.001', '-')
    """
    if value is None or math.isnan(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def text(key: str, *, published: bool = False) -> Callable[[Line], Cell]:
    """A column of text."""
    return lambda line: Cell(str(line[key]) if known(line[key]) else DASH, published=published)


def value(
    key: Hashable, digits: int = 1, *, scale: float = 1.0, bold: str = "", published: bool = False
) -> Callable[[Line], Cell]:
    """A column of numbers; `bold` is the key that says which are significant."""

    def cell(line: Line) -> Cell:
        if not known(line.get(key)):
            return Cell()
        shown = scale * float(line[key])
        return Cell(number(shown, digits), shown, bold=bool(bold and line[bold]), published=published)

    return cell


def interval(
    key: str,
    low: str,
    high: str,
    *,
    digits: int = 1,
    scale: float = 1.0,
    bold: str = "",
    bar: bool = False,
    difference: bool = False,
) -> Callable[[Line], Cell]:
    """A column of numbers with their 95 % intervals; with signs, if they are differences."""

    def cell(line: Line) -> Cell:
        if not known(line.get(key)):
            return Cell()
        numbers = [scale * float(line[name]) for name in (key, low, high)]
        shown = (signed if difference else with_interval)(*numbers, digits=digits)
        return Cell(shown, numbers[0], bold=bool(bold and line[bold]), bar=bar)

    return cell


def p_value(key: str) -> Callable[[Line], Cell]:
    """A column of p-values."""

    def cell(line: Line) -> Cell:
        return Cell(p_text(line[key]), float(line[key])) if known(line.get(key)) else Cell()

    return cell

"""Draw a `Table` for the terminal, in Markdown, in LaTeX (booktabs), as CSV and as HTML."""

import csv
import functools
import io
import re
import textwrap
from collections.abc import Iterable

import jinja2
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from zoo_exp.files import csv_cell
from zoo_exp.report.tabular import ALWAYS, USUALLY, WIDE, Cell, Table

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other signs in the font encoding that LaTeX starts with.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # At the start of a row they would be an option of the end of the row before it.
    **{character: f"{{{character}}}" for character in "[]*"},
    "\u2021": r"$^\ddagger$",
    "±": r"$\pm$",
}


def terminal(table: Table) -> RichTable:
    """The table for a rich console, with all of its columns."""
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, column in enumerate(table.columns):
        justify = "left" if column.left else "right"
        widest = max((len(row[place].text) for row in table.rows), default=0)
        # Headers are broken where they are wider than the cells. Text, not markup: a name in brackets is no style.
        header = Text(
            "\n".join(
                textwrap.wrap(column.header, max(widest, 8), break_long_words=False, break_on_hyphens=False)
            )
        )
        drawn.add_column(header, justify=justify, vertical="bottom", no_wrap=not column.left, overflow="fold")
    for place, row in enumerate(table.rows):
        if table.starts_group(place):
            drawn.add_section()
        drawn.add_row(*(Text(_one_line(cell.text), style=_style(cell)) for cell in row))
    return drawn


def print_table(table: Table, console: Console, title: str | None = None) -> None:
    """Print title, table, caption and notes; where the console is too narrow, with fewer columns, and say so.

    Args:
        table: the table.
        console: where it is printed.
        title: in the place of the table's own.
    """
    console.print(Text(_one_line(title or table.title), style="bold"))
    shown = next((t for t in map(table.up_to, (WIDE, USUALLY)) if _width(t, console) <= console.width), None)
    shown = table.up_to(ALWAYS) if shown is None else shown
    console.print(terminal(shown))
    left_out = [header for header in table.headers if header not in shown.headers]
    if left_out:
        console.print(Text(f"Not shown at this width: {', '.join(left_out)}.", style="dim"))
    # A note that begins with a part of a header in brackets explains that column.
    notes = [n for n in table.notes if not _of(n, left_out) or _of(n, shown.headers)]
    for line in filter(None, (table.caption, *notes)):
        console.print(Text(line, style="dim"))


def _of(note: str, headers: Iterable[str]) -> bool:
    """Whether a note begins with a bracket that ends one of the headers."""
    mark = note.partition(":")[0]
    return mark.startswith("(") and any(header.endswith(mark) for header in headers)


def _width(table: Table, console: Console) -> int:
    return int(terminal(table).__rich_measure__(console, console.options.update(width=10_000)).maximum)


def _style(cell: Cell) -> str:
    return " ".join(name for name, on in (("bold", cell.bold), ("italic", cell.published)) if on)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def markdown(table: Table, heading: str = "##") -> str:
    """Heading, table, caption and notes, separated by blank lines; no heading if it is empty."""
    headers = [escape_markdown(header) for header in table.headers]
    rule = [":--" if column.left else "--:" for column in table.columns]
    lines = [headers, rule, *([_markdown_cell(cell) for cell in row] for row in table.rows)]
    parts = [f"{heading} {escape_markdown(table.title)}"] if heading else []
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts += [escape_markdown(table.caption)] if table.caption else []
    parts += ["\n".join(f"* {escape_markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n\n".join(parts)


def escape_markdown(text: object) -> str:
    r"""Text that Markdown and the HTML behind it show as it is, on one line.

    >>> escape_markdown("zoo_exp | <b>*x*</b>")
    'zoo\\_exp \\| \\<b\\>\\*x\\*\\</b\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>|~&#$])", r"\\\1", _one_line(text))


def _markdown_cell(cell: Cell) -> str:
    mark = "**" * cell.bold + "*" * cell.published
    return f"{mark}{escape_markdown(cell.text)}{mark}"


def latex(table: Table, label: str, context: str = "") -> str:
    """A floating table with caption and label; columns of level `WIDE` are left out, as paper is narrow.

    Args:
        table: the table.
        label: LaTeX label without `tab:`.
        context: what the caption begins with, such as the experiment's name.
    """
    shown = table.up_to(USUALLY)
    kinds = "".join("l" if column.left else "r" for column in shown.columns)
    caption = " ".join(filter(None, (f"{context}{shown.title}.", shown.caption, *shown.notes)))
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _latex_row(escape_latex(header) for header in shown.headers),
        r"\midrule",
    ]
    for place, row in enumerate(shown.rows):
        lines += [r"\midrule"] if shown.starts_group(place) else []
        lines.append(_latex_row(_latex_cell(cell) for cell in row))
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', label)}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: object) -> str:
    r"""Text that LaTeX prints as it is, on one line, without control characters.

    >>> print(escape_latex("zoo_exp 11.1% {a}^2"), escape_latex("[x] -> *"))
    zoo\_exp 11.1\% \{a\}\textasciicircum{}2 {[}x{]} -\textgreater{} {*}
    """
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    return "".join(LATEX_SPECIAL.get(character, character) for character in _one_line(plain))


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    number, bracket, rest = cell.text.partition(" [")
    small = cell.value is not None and bracket
    text = escape_latex(number if small else cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    text = rf"\textit{{{text}}}" if cell.published else text
    return rf"{text} {{\scriptsize {escape_latex(f'[{rest}')}}}" if small else text


def csv_text(table: Table) -> str:
    """Header and cells; a caption and notes stand above them, with the title, in lines that begin with `#`."""
    stream = io.StringIO()
    told = (table.caption, *table.notes)
    for line in filter(None, (table.title, *told) if any(told) else ()):
        stream.write(f"# {csv_cell(_one_line(line))}\n")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(csv_cell, table.headers))
    # A text with a number behind it begins with the number's sign.
    writer.writerows([csv_cell(c.text) if c.value is None else c.text for c in row] for row in table.rows)
    return stream.getvalue()


def html(table: Table) -> Markup:
    """The table with its title, caption and notes as HTML; everything is escaped by the template."""
    return Markup(environment().get_template("table.html.j2").render(table=table))


@functools.lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The templates of the page; what they are given is escaped unless it is `Markup`."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("zoo_exp.report", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["draw"] = html
    return found

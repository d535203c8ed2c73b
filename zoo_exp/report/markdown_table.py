"""Text and tables in Markdown, everything escaped."""

import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    r"""Text that Markdown and the HTML behind it show as it is, on one line.

    >>> escape("zoo_exp | <b>*x*</b>")
    'zoo\\_exp \\| \\<b\\>\\*x\\*\\</b\\>'
    """
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|~&#$])", r"\\\1", one_line)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table of cells that are escaped already; the first `left` columns are left-aligned."""
    rule = [":--" if i < left else "--:" for i in range(len(heads))]
    lines = [heads, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bold(text: str, yes: object) -> str:
    """Bold where it is significant."""
    return f"**{text}**" if yes else text

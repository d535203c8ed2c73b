"""Docstrings as reStructuredText: they are plain text with `code` in backticks, in Google style."""

import dataclasses
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

FIELD = re.compile(r"^:(?:ivar|param) [\w\\*]+(?:, [\w\\*]+)+:")
"""Several names in one line of `Args` or `Attributes`."""
RETURNED = re.compile(r"^(:returns: )\*(.+?)\* -- (.*)$")
MOST = 8
"""Fields of a dataclass that its signature names; of more, only those without a default."""
MARK = "\\"
"""A first line that napoleon leaves alone."""
SAME = {"Statistics": "zoo_exp.statistics.results.Results"}
"""Names in annotations that are not those of the objects."""


def keep_sentence(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from taking a colon in the first line of a property's docstring for the end of a type."""
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, MARK)


def to_markup(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape * and |, and show what is indented below a colon, and tables of Markdown, as they are."""
    if lines[:1] == [MARK]:
        del lines[0]
    for number, line in enumerate(lines):  # napoleon takes what precedes a colon for the type of the result
        lines[number] = RETURNED.sub(r"\1\2: \3", line)
    code = None  # indentation of the line above a block of code
    for number, line in enumerate(lines):
        if code is not None and (not line or _indentation(line) > code):
            continue
        code = _indentation(line) if _starts_code(lines, number) else None
        if not line.lstrip().startswith((">>>", "...", "| ", "|-")):
            joined = FIELD.sub(lambda found: found[0].replace(", ", ","), line)
            lines[number] = _escaped(joined) + ("" if code is None else ":")
    tables = [n for n, line in enumerate(lines) if line.startswith("| ") and (n == 0 or not lines[n - 1])]
    for start in reversed(tables):
        end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
        lines[start:end] = ["::", "", *("    " + line for line in lines[start:end])]


def _escaped(line: str) -> str:
    r"""A line without markup outside of its code.

    >>> _escaped("A*B | C, *texts, `a*b`")
    'A\\*B | C, \\*texts, `a*b`'
    """
    parts = line.split("`")
    parts[::2] = [re.sub(r"(?<![\\*])([*|])(?=\S)", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _starts_code(lines: list[str], number: int) -> bool:
    """Whether indented lines that are no list follow a line that ends with a colon, after an empty one."""
    line, below = lines[number], lines[number + 1 : number + 3]
    if not line.endswith(":") or line.startswith(":") or len(below) < 2 or below[0]:
        return False
    deeper = _indentation(below[1]) > _indentation(line)
    return deeper and not below[1].lstrip().startswith(("* ", "- ", ">>>"))


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def shorten(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, result: str | None
) -> tuple[str, str | None] | None:
    """Sign a dataclass with the names of its fields: their types stand in the list below."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return None
    shown = [field for field in dataclasses.fields(obj) if field.init]
    needed = [field.name for field in shown if field.default is field.default_factory is dataclasses.MISSING]
    others = [f"{field.name}=..." for field in shown if field.name not in needed]
    return f"({', '.join([*needed, *(others if len(shown) <= MOST else ['...'])])})", result


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, which the docstring of their class explains."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def find_by_name(app: Sphinx, env: Any, node: Any, content: Any) -> nodes.reference | None:
    """Link a name without its module, as in annotations and in `Raises`, where one object has this name.

    A class of a module that the reference leaves out stays plain text.
    """
    if node.get("refdomain") != "py":
        return None
    if node["reftarget"] == "Generator":  # torch's
        return content
    target = SAME.get(node["reftarget"], node["reftarget"])
    objects = env.domains["py"].objects
    module = target.rpartition(".")[0]
    if module.startswith("zoo_exp.") and not any(name.startswith(f"{module}.") for name in objects):
        return content
    if not hasattr(env, "zoo_by_name"):  # references are resolved after every page is read
        env.zoo_by_name = {}
        for name in objects:
            env.zoo_by_name.setdefault(name.rpartition(".")[2], []).append(name)
    named = [
        name
        for name in env.zoo_by_name.get(target.rpartition(".")[2], [])
        if name == target or name.endswith(f".{target}")
    ]
    if len(named) != 1:
        return None
    place = objects[named[0]]
    return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, content, named[0])


def setup(app: Sphinx) -> None:
    """Connect the functions."""
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", to_markup, priority=1000)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", find_by_name)

"""The whole page from its sections. A content security policy keeps the network out and injected script dead."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from zoo_exp.report.headline import change, headline
from zoo_exp.report.html.assets import SCRIPT, STYLE
from zoo_exp.report.html.pictures import Pictures
from zoo_exp.report.html.run import render_run
from zoo_exp.report.html.table import Cell, escape, render
from zoo_exp.report.section import Section
from zoo_exp.report.tables import count

LIMIT = 10_000_000
"""Bytes of a page: what mail and chat programs carry."""


class Level(NamedTuple):
    """How much a page shows: longest side of pictures, questions a gallery, figures or not, and what is left out."""

    pixels: int
    questions: int
    figures: bool
    left_out: str


LEVELS = (
    Level(360, 99, True, ""),
    Level(224, 99, True, "gallery pictures are smaller"),
    Level(160, 3, True, "galleries show three questions each, in small pictures"),
    Level(64, 0, True, "galleries are left out; the run folders have them (masks.png)"),
    Level(
        64, 0, False, "galleries and figures are left out; they lie beside this page and in the run folders"
    ),
)
"""What goes first where a page would be larger than `LIMIT`: pictures before figures, and tables never."""


def page(title: str, sections: Sequence[Section], warnings: Sequence[str] = (), limit: int = LIMIT) -> str:
    """The page as text, with as much as fits into `limit` bytes (see `LEVELS`).

    Args:
        title: heading.
        sections: one per run.
        warnings: what stands above everything else, such as runs that do not go together.
        limit: bytes.
    """
    for level in LEVELS:
        said = (
            [*warnings, f"To stay below {limit / 1e6:g} MB {level.left_out}"] if level.left_out else warnings
        )
        text = _page(title, sections, said, level)
        if len(text.encode()) <= limit:
            break
    return text


def _page(title: str, sections: Sequence[Section], warnings: Sequence[str], level: Level) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{escape(s.slug)}">{escape(s.title)}</a>' for s in sections)
    notes = "".join(f'<p class="warn">{escape(text)}.</p>' for text in warnings)
    pictures = Pictures(level.pixels)
    body = "".join(render_run(section, pictures, level.questions, level.figures) for section in sections)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f"<header><div><h1>{escape(title)}</h1>"
        '<div class="soft">Tables sort by a click on a head. Rows in italics are published numbers, copied from '
        "papers. Brackets are 95 % intervals; bold means significant.</div></div></header>"
        f'<nav aria-label="experiments"><div>{links}</div></nav>'
        f"<main>{notes}{_overview(sections)}{body}</main>"
        f"{pictures.element()}<script>{SCRIPT}</script></body></html>\n"
    )


def _overview(sections: Sequence[Section]) -> str:
    """One row per experiment: what its best arm keeps at the smallest budget."""
    if len(sections) < 2:
        return ""
    rows: list[list[Cell | str]] = []
    for section in sections:
        found = headline(section.results)
        row: list[Cell | str] = [
            Cell(section.title, link=section.slug),
            Cell(str(section.run.model.get("name"))),
        ]
        if found is None:
            rows.append([*row, *([Cell("-")] * 6)])
            continue
        verdict = "ahead of all" if found.ahead else f"tied with {len(found.rivals)}" if found.rivals else "-"
        share: dict[str, Any] = {} if found.flops != found.flops else {"value": found.flops}
        rows.append(
            [
                *row,
                Cell(found.arm),
                Cell(count(found.kept), found.kept),
                Cell(found.interval, found.retained, bold=found.ahead, bar=True),
                Cell(verdict),
                Cell(found.random or "-"),
                Cell(change(found.flops), **share),
            ]
        )
    heads = ["experiment", "model", "best arm at the smallest budget", "kept", "Avg. retained %"]
    heads += ["within its budget", "against random, points", "operations against full"]
    caption = "Bold: better than every other arm of its budget, each paired 95 % interval above 0."
    return f'<section id="overview"><h2>At a glance</h2>{render(heads, rows, caption, left=3)}</section>'

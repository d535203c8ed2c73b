"""The HTML page from its sections: one file without network, from the templates in `page/`.

A content security policy keeps the network out and allows no script but the page's own, by its hash.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup

from zoo_exp import sharing
from zoo_exp.report.headline import change, headline
from zoo_exp.report.page_galleries import PageImages, gallery_data, script_json
from zoo_exp.report.renderers import environment
from zoo_exp.report.section import Section
from zoo_exp.report.side_by_side import side_by_side
from zoo_exp.report.tables_statistics import facts_table
from zoo_exp.report.tabular import Cell, Column, Line, Table, build, count, known, text

LIMIT = 10_000_000
"""Bytes of a page: what mail and chat programs accept."""
OVERVIEW = (
    "Bold: significantly better than every other arm at the same budget (all paired 95 % CIs exclude 0 "
    "and the exact tests agree, Holm's correction)."
)


class Level(NamedTuple):
    """How much a page shows: longest side of images, questions per gallery, figures or not, and what is missing."""

    pixels: int
    questions: int
    figures: bool
    left_out: str


LEVELS = (
    Level(360, 99, True, ""),
    Level(224, 99, True, "gallery images are reduced"),
    Level(160, 3, True, "galleries show three questions each, in reduced images"),
    Level(64, 0, True, "galleries are omitted; the run folders contain them (masks.png)"),
    Level(
        64, 0, False, "galleries and figures are omitted; they lie beside this page and in the run folders"
    ),
)
"""What is omitted first where a page would be larger than `LIMIT`: images before figures, and tables never."""


def render_page(
    title: str, sections: Sequence[Section], warnings: Sequence[str] = (), limit: int = LIMIT
) -> str:
    """The page as text, with as much as fits into `limit` bytes (see `LEVELS`).

    Args:
        title: heading.
        sections: one per run.
        warnings: shown above everything else, such as runs that differ in their settings.
        limit: bytes.
    """
    above = overviews(sections)
    for level in LEVELS:
        reduced = [f"To stay below {limit / 1e6:g} MB, {level.left_out}"] if level.left_out else []
        page = _render(title, sections, above, [*warnings, *reduced], level)
        if len(page.encode()) <= limit:
            break
    return page


def _render(
    title: str, sections: Sequence[Section], above: Sequence[Table], warnings: Sequence[str], level: Level
) -> str:
    images = PageImages(level.pixels)
    script = page_file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    shown = [_section(section, images, level) for section in sections]  # fills `images`
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            policy=policy,
            style=Markup(page_file("page.css")),
            script=Markup(script),
            warnings=warnings,
            overviews=above,
            sections=shown,
            images=script_json(images.urls),
        )
        + "\n"
    )


@functools.lru_cache(maxsize=8)
def page_file(name: str) -> str:
    """The style sheet or the script of the page, as it stands in the package."""
    return (resources.files("zoo_exp.report") / "page" / name).read_text(encoding="utf-8")


def _section(section: Section, images: PageImages, level: Level) -> dict[str, Any]:
    """What the template shows of a run."""
    run, results, model = section.run, section.results, section.run.model
    experiment = sharing.shareable(run.experiment)
    configuration = {key: value for key, value in experiment.items() if key != "overrides"}
    found = headline(results)
    return {
        "slug": section.slug,
        "title": section.title,
        "question": experiment.get("question") or "",
        "model": model.get("name"),
        "facts": ", ".join(f"{key} {model.get(key)}" for key in ("dtype", "attention") if model.get(key)),
        "overrides": " ".join(sharing.overrides(run.experiment)),
        "notes": results.notes,
        "headline": found.sentences() if found else [],
        "tables": section.tables,
        "figures": [
            {"wide": svg_url(one.wide), "narrow": svg_url(one.narrow), "caption": one.caption}
            for one in (section.figures if level.figures else [])
        ],
        "galleries": [
            {
                "title": one.title,
                "rule": one.rule,
                "data": script_json(gallery_data(one.items[: level.questions], section.rows, images)),
            }
            for one in (section.examples if level.questions else [])
        ],
        "provenance": facts_table("provenance", "", {"run": run.experiment.get("id"), **run.provenance}),
        "configuration": yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True),
    }


def svg_url(path: Path) -> str:
    """An SVG file as a data URL."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def overviews(sections: Sequence[Section]) -> list[Table]:
    """What stands above several runs; empty for one."""
    if len(sections) < 2:
        return []
    runs, results = [section.run for section in sections], [section.results for section in sections]
    return [overview(sections), side_by_side(runs, results)]


def overview(sections: Sequence[Section]) -> Table:
    """One row per run: its best arm at the smallest budget."""
    lines = []
    for section in sections:
        found = headline(section.results)
        lines.append(
            {
                "title": section.title,
                "slug": section.slug,
                "model": section.run.model.get("name"),
                "best": found,
            }
            | {"arm": found.arm if found else None}
        )
    columns = [
        Column("experiment", lambda line: Cell(str(line["title"]), link=str(line["slug"])), left=True),
        Column("model", text("model"), left=True),
        Column("best arm at the smallest budget", text("arm"), left=True),
        Column("kept", _of_best(lambda best: Cell(count(best.kept), best.kept))),
        Column(
            "Avg. retained",
            _of_best(lambda best: Cell(best.interval, best.retained, bold=best.ahead, bar=True)),
            unit="%",
        ),
        Column("within its budget", _of_best(lambda best: Cell(best.verdict))),
        Column("difference to random", _of_best(lambda best: Cell(best.random or "-")), unit="(points)"),
        Column("FLOPs relative to full", _of_best(_change)),
    ]
    return build("overview", "At a glance", columns, lines, caption=OVERVIEW)


def _of_best(cell: Any) -> Any:
    def made(line: Line) -> Cell:
        return cell(line["best"]) if line["best"] is not None else Cell()

    return made


def _change(best: Any) -> Cell:
    return Cell(change(best.flops), best.flops if known(best.flops) else None)

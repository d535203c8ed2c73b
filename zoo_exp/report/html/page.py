"""The whole page from its sections. A content security policy keeps the network out and injected script dead."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from zoo_exp.report.frame import AVERAGE
from zoo_exp.report.html import gallery
from zoo_exp.report.html.assets import SCRIPT, STYLE
from zoo_exp.report.html.table import Cell, escape, render
from zoo_exp.report.published import difference_text
from zoo_exp.report.section import Section
from zoo_exp.report.tables import (
    count,
    display_scale,
    method_lines,
    number,
    signed,
    unique_short_names,
    with_interval,
)


def page(title: str, sections: Sequence[Section], warnings: Sequence[str] = ()) -> str:
    """The page as text.

    Args:
        title: heading.
        sections: one per run.
        warnings: what stands above everything else, such as runs that do not go together.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{escape(s.slug)}">{escape(s.run.name)}</a>' for s in sections)
    notes = "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings)
    body = "".join(_section(section) for section in sections)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f"<header><div><h1>{escape(title)}</h1>"
        '<div class="soft">Tables sort by a click on a head. Rows in italics are published numbers, copied from '
        f"papers.</div><nav>{links}</nav></div></header><main>{notes}{body}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _section(section: Section) -> str:
    run, results = section.run, section.results
    parts = [f'<section id="{escape(section.slug)}"><h2>{escape(run.name)}</h2>']
    question = run.experiment.get("question")
    if question:
        parts.append(f"<p>{escape(question)}</p>")
    # Where the run folder lies is nobody's business who reads the page.
    typed = [str(text) for text in run.experiment.get("overrides") or []]
    overrides = " ".join(text for text in typed if not text.startswith(("out=", "logger=")))
    model = run.model
    facts = ", ".join(f"{key} {model.get(key)}" for key in ("dtype", "attention") if model.get(key))
    parts.append(
        f'<p class="soft">Model {escape(model.get("name"))} ({escape(facts)}). '
        f"Command: <code>python -m zoo_exp run {escape(overrides)}</code></p>"
    )
    parts += [f'<p class="warn">{escape(note)}.</p>' for note in results.notes]
    parts.append(_main_table(section))
    lines = [line for line in method_lines(results) if not line.startswith("Note:")]
    parts.append("<ul class='notes'>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")
    parts += [_comparisons(results.comparisons), _joined(section.joined), _paper(section)]
    if section.pictures:
        parts.append('<h3>Figures</h3><div class="figures">')
        parts += [_figure(picture.path, picture.caption) for picture in section.pictures]
        parts.append("</div>")
    parts.append(_tokens(section.tokens))
    for examples in section.examples:
        parts.append(f"<h3>{escape(examples.title)}</h3><p class='soft'>{escape(examples.rule)}</p>")
        parts.append(gallery.render(examples.items, section.rows))
    parts.append(_provenance(section))
    return "".join([*parts, "</section>"])


def _main_table(section: Section) -> str:
    results, needed = section.results, section.contribution
    heads = unique_short_names(results.tasks)
    columns = ["Arm", "kept", *(heads[task] for task in results.tasks), "Avg. retained %", "mean score %"]
    columns += ["Avg. needing the image"] if needed and needed.needing else []
    columns += ["seed sd", "select ms", "generate ms", "GFLOP"]
    rows: list[list[Cell | str]] = []
    for arm, part in results.frame.groupby("arm", sort=False):
        lines: dict[str, Any] = {str(line["task"]): line for line in part.to_dict("records")}
        average = lines[AVERAGE]
        row: list[Cell | str] = [
            Cell(str(arm)),
            _number(average["kept_tokens"], count(average["kept_tokens"])),
        ]
        for task in results.tasks:
            value = lines[task]["value"] * display_scale(results, task)
            row.append(Cell(number(value), value, bold=bool(lines[task]["best"])))
        share = with_interval(average["retained"], average["retained_low"], average["retained_high"])
        row.append(Cell(share, average["retained"], bold=bool(average["best"])))
        score = [100 * average[key] for key in ("value", "low", "high")]
        row.append(Cell(with_interval(*score), score[0]))
        if needed and needed.needing:
            row.append(_number(needed.retained.get(str(arm), float("nan"))))
        row += [_number(average["seed_sd"], number(average["seed_sd"], 2))]
        row += [_number(average[key], number(average[key], 2)) for key in ("select_ms", "generate_ms")]
        gflop = 1000 * average["flops_tflop"]
        row.append(_number(gflop, f"{gflop:.4g}" if gflop == gflop else "-"))
        rows.append(row)
    if needed:
        image: list[Cell | str] = [Cell("image contribution: (full - blind) / blind"), ""]
        image += [_number(needed.by_task.get(task, float("nan"))) for task in results.tasks]
        rows.append([*image, *([""] * (len(columns) - len(image)))])
    return "<h3>Results</h3>" + render(columns, rows)


def _comparisons(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    rows: list[list[Cell | str]] = []
    for line in table.to_dict("records"):
        difference = signed(line["difference"], line["low"], line["high"])
        tested = line["p_value"] is not None and not pd.isna(line["p_value"])
        counts = f"{line['only_arm_right']:.0f} : {line['only_against_right']:.0f}" if tested else "-"
        p_value = Cell(f"{line['p_value']:.2g}", line["p_value"]) if tested else Cell("-")
        bold = bool(line["significant"])
        rows.append([line["arm"], line["against"], Cell(difference, line["difference"], bold=bold)])
        rows[-1] += [_number(line["detectable"]), counts, p_value]
    heads = [
        "best of its budget",
        "against",
        "difference, points",
        "detectable at 80 %",
        "only best : only other",
        "p",
    ]
    caption = (
        "Paired differences of Avg. retained. Bold: the 95 % interval leaves out 0. p: exact McNemar test over all "
        "questions that are scored right or wrong, which it takes as independent."
    )
    return "<h3>Paired differences</h3>" + render(heads, rows, caption, left=2)


def _joined(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    rows: list[list[Cell | str]] = []
    for line in table.to_dict("records"):
        ours = with_interval(line["ours"], line["low"], line["high"])
        published = Cell(f"{line['published']:.2f}", line["published"], published=True)
        difference = Cell(difference_text(line["difference"]), line["difference"])
        inside = "yes" if line["within"] else "no"
        source = f"{line['source']}, table {line['table']} ({line['protocol']})"
        rows.append(
            [line["arm"], line["task"], source, Cell(ours, line["ours"]), published, difference, inside]
        )
    heads = ["arm", "task", "published in", "ours", "published", "ours - published", "inside our interval"]
    caption = (
        "Only where model, benchmark, metric and budget are the same; averages never are, as the papers' nine hold "
        "two benchmarks that are measured otherwise here."
    )
    return "<h3>Beside the published numbers</h3>" + render(heads, rows, caption, left=3)


def _paper(section: Section) -> str:
    if section.paper.empty:
        return ""
    rows: list[list[Cell | str]] = [
        [
            Cell(line["method"], published=True),
            Cell(line["source"], published=True),
            Cell(line["model"], published=True),
            Cell(line["budget"], float(line["budget"]), published=True),
            Cell(f"{100 * line['keep']:.1f}", line["keep"], published=True),
            Cell(f"{line['average']:.1f}", line["average"], published=True),
        ]
        for line in section.paper.to_dict("records")
    ]
    heads = ["method", "source", "model", "budget", "kept, %", "Avg. retained %"]
    caption = (
        "The paper's averages of this table, without intervals: other images and questions, no row of ours."
    )
    table = render(heads, rows, caption, left=3)
    return f"<details><summary>What the paper prints (published)</summary>{table}</details>"


def _tokens(tokens: pd.DataFrame) -> str:
    if tokens.empty:
        return ""
    columns = {
        "spearman": "Spearman, all tokens",
        "spearman_above": "above 0.5",
        "overlap": "overlap of kept sets",
        "effective_rank": "effective rank",
        "kept_tokens": "kept",
        "select_ms": "select ms",
    }
    rows: list[list[Cell | str]] = []
    for line in tokens.to_dict("records"):
        row: list[Cell | str] = [Cell(str(line["arm"])), _number(line["images"], str(line["images"]))]
        for name in columns:
            digits = 3 if name.startswith(("spear", "over")) else 2
            spread = line.get(f"{name}_se")
            text = number(line[name], digits)
            if text != "-" and spread == spread and name not in ("kept_tokens", "select_ms"):
                text += f" ± {spread:.{digits}f}"
            row.append(_number(line[name], text))
        rows.append(row)
    caption = "Against the first arm that rates tokens; ± is 1.96 standard errors over images."
    return "<h3>Tokens</h3>" + render(["arm", "images", *columns.values()], rows, caption)


def _figure(path: Path, caption: str) -> str:
    svg = path.with_suffix(".svg").read_bytes()
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    text = escape(caption)
    return f'<figure><img class="figure" src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _provenance(section: Section) -> str:
    run = section.run
    facts: list[list[Cell | str]] = [
        [str(key), str(value)] for key, value in {"run": run.experiment.get("id"), **run.provenance}.items()
    ]
    shown = {key: value for key, value in run.experiment.items() if key not in ("out", "overrides")}
    config = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return (
        "<details><summary>Provenance and configuration</summary>"
        + render(["what", "value"], facts, left=2)
        + f"<pre>{escape(config)}</pre></details>"
    )


def _number(value: float, text: str | None = None) -> Cell:
    return Cell(number(value) if text is None else text, None if value != value else float(value))

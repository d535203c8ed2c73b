"""One run on the page: headline, tables, figures, galleries, provenance."""

import base64
from pathlib import Path

import pandas as pd
import yaml

from zoo_exp.report.headline import headline
from zoo_exp.report.html import gallery
from zoo_exp.report.html.pictures import Pictures
from zoo_exp.report.html.statistics import comparisons, difficulty, image_contribution
from zoo_exp.report.html.table import Cell, escape, figure_cell, render
from zoo_exp.report.published import CAPTION, difference_text
from zoo_exp.report.published_table import TITLE
from zoo_exp.report.section import Section
from zoo_exp.report.tables import (
    display_scale,
    kept_count,
    measured_tokens,
    method_lines,
    number,
    unique_short_names,
    with_interval,
)
from zoo_exp.statistics.frame import AVERAGE


def render_run(section: Section, pictures: Pictures, questions: int, figures: bool = True) -> str:
    """A section of the page.

    Args:
        section: the run.
        pictures: where the page keeps its pictures.
        questions: how many a gallery shows at most; 0 leaves galleries out.
        figures: whether figures stand in the page.
    """
    run, results = section.run, section.results
    parts = [f'<section id="{escape(section.slug)}"><h2>{escape(section.title)}</h2>']
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
    found = headline(results)
    if found is not None:
        first, *rest = found.sentences()
        parts.append(f'<div class="headline"><p>{escape(first)}</p>')
        parts += [f"<p class='soft'>{escape(line)}</p>" for line in rest]
        parts.append("</div>")
    parts.append(_main_table(section))
    lines = [line for line in method_lines(results) if not line.startswith("Note:")]
    parts.append("<ul class='notes'>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")
    parts += [comparisons(results.comparisons), difficulty(results.difficulty)]
    parts += [image_contribution(results), _joined(section.joined), _paper(section)]
    if section.pictures and figures:
        parts.append('<h3>Figures</h3><div class="figures">')
        parts += [_figure(picture.path, picture.caption) for picture in section.pictures]
        parts.append("</div>")
    parts.append(_tokens(section.tokens))
    for examples in section.examples if questions else ():
        parts.append(f"<h3>{escape(examples.title)}</h3><p class='soft'>{escape(examples.rule)}</p>")
        parts.append(gallery.render(examples.items[:questions], section.rows, pictures))
    parts.append(_provenance(section))
    return "".join([*parts, "</section>"])


def _main_table(section: Section) -> str:
    results, needed = section.results, section.contribution
    heads = unique_short_names(results.tasks)
    columns = ["Arm", "kept", *(heads[task] for task in results.tasks), "Avg. retained %", "mean score %"]
    columns += ["Avg. needing the image"] if needed and needed.needing else []
    columns += ["seed sd", "select ms", "generate ms", "GFLOP"]
    rows: list[list[Cell | str]] = []
    for arm, lines in results.lines.items():
        average = lines[AVERAGE]
        row: list[Cell | str] = [
            Cell(str(arm)),
            figure_cell(measured_tokens(average), kept_count(average)),
        ]
        for task in results.tasks:
            value = lines[task]["value"] * display_scale(results, task)
            row.append(Cell(number(value), value, bold=bool(lines[task]["best"])))
        share = with_interval(average["retained"], average["retained_low"], average["retained_high"])
        row.append(Cell(share, average["retained"], bold=bool(average["best"]), bar=True))
        score = [100 * average[key] for key in ("value", "low", "high")]
        row.append(Cell(with_interval(*score), score[0]))
        if needed and needed.needing:
            row.append(figure_cell(needed.retained.get(str(arm), float("nan"))))
        row += [figure_cell(average["seed_sd"], number(average["seed_sd"], 2))]
        row += [
            figure_cell(average[key], number(average[key], 2)) for key in ("select_ms", "prefill_decode_ms")
        ]
        gflop = 1000 * average["flops_tflop"]
        row.append(figure_cell(gflop, f"{gflop:.4g}" if gflop == gflop else "-"))
        rows.append(row)
    groups = [results.lines[str(row[0].text)][AVERAGE]["budget"] for row in rows if isinstance(row[0], Cell)]
    return "<h3>Results</h3>" + render(columns, rows, groups=groups)


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
    return f"<h3>{TITLE}</h3>" + render(heads, rows, CAPTION, left=3)


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
        row: list[Cell | str] = [Cell(str(line["arm"])), figure_cell(line["images"], str(line["images"]))]
        for name in columns:
            digits = 3 if name.startswith(("spear", "over")) else 2
            spread = line.get(f"{name}_se")
            text = number(line[name], digits)
            if text != "-" and spread == spread and name not in ("kept_tokens", "select_ms"):
                text += f" ± {spread:.{digits}f}"
            row.append(figure_cell(line[name], text))
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

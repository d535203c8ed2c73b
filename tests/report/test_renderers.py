"""Every table has the same title, headers, cells, caption and notes in all five outputs."""

import csv
import dataclasses
import html as html_module
import io
import re

import pytest
from made_up_run import TASKS
from rich.console import Console

from zoo_exp.measure.bench_rows import Conditions, Row
from zoo_exp.measure.stages import STAGES
from zoo_exp.report import renderers
from zoo_exp.report.html_page import overview
from zoo_exp.report.published import averages, read
from zoo_exp.report.runs import results_of
from zoo_exp.report.section import make_section
from zoo_exp.report.tables import main_table
from zoo_exp.report.tables_bench import bench_columns, bench_table
from zoo_exp.report.tables_statistics import facts_table, paper_table
from zoo_exp.report.tabular import USUALLY, WIDE, Cell, Column, build, known
from zoo_exp.runs.load import load_run

UNLATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$^\ddagger$": "\u2021",
    r"$\pm$": "±",
    "{[}": "[",
    "{]}": "]",
    "{*}": "*",
}


def squeezed(text):
    """Text without white space, which renderers may break lines at."""
    return re.sub(r"\s+", "", text)


def from_latex(text):
    text = re.sub(r"\\text(?:bf|it)\{((?:[^{}]|\{[\[\]*]\}|\\text\w+\{\})*)\}", r"\1", text)
    text = re.sub(r"\{\\scriptsize (.*)\}", r"\1", text)
    for code, character in UNLATEX.items():
        text = text.replace(code, character)
    return re.sub(r"\\([&%$#_{}])", r"\1", text)


def from_markdown(text):
    text = re.sub(r"(?<!\\)\*", "", text)
    return re.sub(r"\\(.)", r"\1", text)


def in_terminal(table):
    console = Console(file=io.StringIO(), width=1000)
    renderers.print_table(table, console)
    drawn = renderers.terminal(table)
    headers = [column.header.plain.replace("\n", " ") for column in drawn.columns]
    columns = [[cell.plain for cell in column.cells] for column in drawn.columns]
    return headers, [list(row) for row in zip(*columns, strict=True)], console.file.getvalue()


def in_markdown(table):
    text = renderers.markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[from_markdown(c.strip()) for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return rows[0], rows[2:], from_markdown(text)


def in_latex(table):
    text = renderers.latex(table, "label")
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r"\\")]
    rows = [[from_latex(cell) for cell in re.split(r" (?<!\\)& ", line)] for line in lines]
    return rows[0], rows[1:], from_latex(text)


def in_csv(table):
    text = renderers.csv_text(table)
    lines = list(csv.reader(line for line in text.splitlines(keepends=True) if not line.startswith("# ")))
    return lines[0], lines[1:], text


def in_html(table):
    text = renderers.html(table)
    plain = html_module.unescape(re.sub(r"<[^>]*>", "", text))
    headers = re.findall(r"<button[^>]*>(.*?)</button>", text)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)]
    strip = lambda cell: html_module.unescape(re.sub(r"<[^>]*>", "", cell))  # noqa: E731
    return [strip(h) for h in headers], [[strip(c) for c in row] for row in rows if row], plain


OUTPUTS = {
    "terminal": in_terminal,
    "markdown": in_markdown,
    "latex": in_latex,
    "csv": in_csv,
    "html": in_html,
}


def bench_rows():
    conditions = Conditions("m", 4, "CPU", 1, "float32", "sdpa", 3, "2.13")
    return [
        Row(conditions, arm, arm.split(" ")[0], {}, budget, 1, [dict.fromkeys(STAGES, time)] * 2)
        for arm, budget, time in (("full", None, 9.0), ("zoo_exp [new] @16", "16", 4.0))
    ]


@pytest.fixture
def tables(make_whole_run, tmp_path):
    """Every table that there is, by name."""
    run = load_run(make_whole_run(tokens=True))
    section = make_section(run, "made_up", tmp_path / "figures", 50)
    hostile = Cell("<b>&amp; $x_1$ [a] *b* | {c}% \u2021 ±1", 1.0, bold=True)
    found = [
        *section.tables,
        paper_table(averages("table1_llava15_7b", read())),
        facts_table("provenance", "Provenance", {"a|b": "c_d", "<e>": 1}),
        overview([section, section]),
        bench_table(bench_rows()),
        bench_columns(bench_rows()),
        build("hostile", "A & B", [Column("x_y", lambda line: hostile, unit="%")], [{}], caption="[c] & d"),
    ]
    return {table.name: table for table in found}


def test_there_is_a_table_of_each_kind(tables):
    tasks = {f"task_{name}" for name in TASKS}
    kinds = {"results", "paired", "contribution", "tokens", "paper", "provenance", "overview", "bench"}
    kinds |= {"details_embedded_pope"}
    assert kinds | tasks <= set(tables)
    assert all(table.rows and table.columns for table in tables.values())
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)


@pytest.mark.parametrize("output", OUTPUTS)
def test_headers_cells_and_captions_are_the_same_everywhere(tables, output):
    for table in tables.values():
        shown = table.up_to(USUALLY) if output == "latex" else table
        headers, rows, text = OUTPUTS[output](table)
        assert headers == shown.headers, table.name
        assert [[squeezed(c) for c in row] for row in rows] == [
            [squeezed(cell.text) for cell in row] for row in shown.rows
        ], table.name
        told = (table.caption, *table.notes)
        if output != "csv" or any(told):
            for sentence in filter(None, (table.title, *told)):
                assert squeezed(sentence) in squeezed(text), (table.name, sentence)


def test_bold_and_published_cells_are_marked_everywhere():
    cells = {"b": Cell("1.5 [1.0, 2.0]", 1.5, bold=True), "p": Cell("58.47", 58.47, published=True)}
    columns = [Column("b", lambda line: line["b"]), Column("p", lambda line: line["p"])]
    table = build("t", "T", columns, [cells])
    assert "| **1.5 \\[1.0, 2.0\\]** | *58.47* |" in renderers.markdown(table)
    assert r"\textbf{1.5} {\scriptsize {[}1.0, 2.0{]}} & \textit{58.47} \\" in renderers.latex(table, "t")
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    renderers.print_table(table, console)
    assert re.search(r"\x1b\[1m1\.5", console.file.getvalue())
    assert re.search(r"\x1b\[3m58\.47", console.file.getvalue())
    text = renderers.html(table)
    assert '<td class="best" data-v="1.5">' in text
    assert '<td class="published" data-v="58.47">' in text


def test_a_column_without_values_is_omitted():
    columns = [Column("a", lambda line: "x"), Column("b", lambda line: str(line["b"]), needs="b")]
    assert build("t", "T", columns, [{"b": None}, {"b": float("nan")}]).headers == ["a"]
    assert build("t", "T", columns, [{"b": None}, {"b": 0.0}]).headers == ["a", "b"]
    assert build("t", "T", columns, [{}]).headers == ["a"]


def test_narrow_terminals_show_fewer_columns_and_name_the_others(make_whole_run):
    table = main_table(results_of(load_run(make_whole_run()), draws=50))
    for width in (30, 60, 80, 120):
        console = Console(file=io.StringIO(), width=width)
        renderers.print_table(table, console)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        told = re.search(r"Not shown at this width: (.*?)\. Metrics in", " ".join(text.split()))
        missing = told[1].split(", ") if told else []
        assert set(missing) <= set(table.headers)
        assert ("mean score %" in missing) == (width < 120)
    assert {column.level for column in table.columns} == {0, USUALLY, WIDE}


def test_a_bench_is_readable_at_80_columns():
    names = ("full", "zoo closed_form multiply @16", "zoo multiply rank=128 @32/tile", "divprune @16")
    rows = [
        dataclasses.replace(row, arm=arm, batch_size=batch)
        for batch in (1, 16)
        for row, arm in zip(bench_rows() * 2, names, strict=True)
    ]
    table = bench_table(rows)
    for width, all_columns in ((80, False), (240, True)):
        console = Console(file=io.StringIO(), width=width)
        renderers.print_table(table, console)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert "\u2026" not in text
        for word in ("batch", "kept", "selector", "end to end", "prefill speed-up", "end-to-end speed-up"):
            assert all(part in text for part in word.split())
        assert text.splitlines()[4].startswith("full  ") or text.splitlines()[5].startswith("full  ")
        assert ("(paper): formula of the paper" in " ".join(text.split())) == all_columns


def test_a_row_of_another_budget_starts_a_group():
    lines = [{"budget": budget} for budget in (None, "48", "48", "16", None)]
    table = build("t", "T", [Column("x", lambda line: "1")], lines, group="budget")
    assert [table.starts_group(row) for row in range(5)] == [False, True, False, True, True]
    assert renderers.latex(table, "t").count(r"\midrule") == 1 + 3
    assert renderers.html(table).count('class="first"') == 3
    assert renderers.html(table).count("data-b=") == 3


def test_p_values_have_one_format(tables):
    place = tables["paired"].headers.index("p")
    texts = {row[place].text for row in tables["paired"].rows if known(row[place].value)}
    assert texts
    assert all(re.fullmatch(r"< 0\.001|[01]\.\d{3}", text) for text in texts)

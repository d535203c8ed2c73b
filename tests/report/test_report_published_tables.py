"""Published numbers are shown in every kind of table, marked and in separate rows."""

import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from zoo_exp.report import run_document, summary
from zoo_exp.report.build import build
from zoo_exp.report.renderers import escape_latex
from zoo_exp.report.runs import results_of
from zoo_exp.runs.load import load_run

ARM = "[x] <zoo> | *multiply*"


@pytest.fixture
def run(make_whole_run):
    """As from LLaVA-1.5-7B at 64 tokens, on whole benchmarks; its label is one that LaTeX could misread."""
    folder = make_whole_run(name="llava15_7b", path="llava-hf/llava-1.5-7b-hf", protocol="llava")
    for name in ("experiment.json", "records.jsonl", "masks.jsonl"):
        text = (folder / name).read_text()
        text = re.sub(r"embedded_(gqa|pope|vqav2)", lambda m: m[1] + "_val" * (m[1] == "vqav2"), text)
        text = text.replace('"budget": "16"', '"budget": "64"').replace('"limit": 120', '"limit": null')
        (folder / name).write_text(text.replace("zoo multiply @16", ARM))
    return folder


@pytest.fixture
def results(run):
    return results_of(load_run(run), draws=50)


def test_every_published_number_of_the_run_is_there(results):
    found = results.published.set_index(["arm", "task"])
    assert found["published"].to_dict() == {
        ("full", "gqa"): 61.9,
        ("full", "pope"): 85.9,
        (ARM, "gqa"): 58.47,
        (ARM, "pope"): 85.86,
    }
    value = results.lines[ARM]["gqa"]["value"]
    assert found.loc[(ARM, "gqa"), "difference"] == pytest.approx(100 * value - 58.47)
    assert not [note for note in results.notes if "published" in note]


def test_a_subset_of_the_benchmarks_has_none_and_a_note(run):
    text = (run / "experiment.json").read_text()
    (run / "experiment.json").write_text(text.replace('"limit": null', '"limit": 24'))
    results = results_of(load_run(run), draws=50)
    assert results.published.empty
    assert any("limit=24 evaluates a part" in note for note in results.notes)
    assert "published" not in run_document.markdown_document(results).replace(
        "published numbers are not shown", ""
    )


def test_the_terminal_marks_them(results):
    console = Console(file=io.StringIO(), width=150, force_terminal=True, color_system="standard")
    run_document.show(results, console)
    text = console.file.getvalue().split("Published numbers beside ours")[1]
    assert re.search(r"\x1b\[3m *58\.47", text)
    assert "poster, table 1" in text


def test_markdown_marks_them(results):
    text = (
        run_document.markdown_document(results).split("## Published numbers beside ours")[1].split("\n## ")[0]
    )
    assert text.count("| *58.47* |") == 1
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 1 + 1 + 4
    assert (
        len({len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}) == 1
    )


def test_latex_has_a_table_of_published_rows(results):
    text = run_document.latex_document(results, "llava15_7b")
    tables = text.count(r"\begin{tabular}")
    assert (
        tables == text.count(r"\end{tabular}") == 4 + 3 + 1
    )  # results, pairs, published, contribution; tasks; details of POPE
    assert text.count(r"\textit{58.47}") == 1
    assert (
        text.count("\n{[}x{]} \\textless{}zoo\\textgreater{} \\textbar{} {*}multiply{*}") == 1 + 2 + 2 + 3 + 1
    )
    for line in text.splitlines():
        assert not line.startswith(("[", "*"))  # an option of the row's end before it
        assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
    assert text.count(r"\label{tab:made-up") == tables


def test_latex_has_no_control_characters():
    assert escape_latex("a\x00b\x1b[31m\u202e \n c") == "a b {[}31m c"


def test_csv_has_published_rows_in_a_separate_file(results, tmp_path):
    path = tmp_path / "r.csv"
    run_document.write_csv(results, path)
    assert "58.47" not in path.read_text()
    back = pd.read_csv(tmp_path / "r_published.csv")
    assert back["published"].tolist() == [61.9, 85.9, 58.47, 85.86]
    assert set(back["source"]) == {"poster"}
    run_document.write_csv(without(results), path)
    assert not (tmp_path / "r_published.csv").exists()
    run_document.write_json(results, tmp_path / "r.json")
    assert len(json.loads((tmp_path / "r.json").read_text())["published"]) == 4


def without(results):
    return replace(results, published=results.published.head(0))


def test_a_run_shows_them_when_it_ends_and_a_report_too(run, tmp_path):
    from zoo_exp import tasks

    config = json.loads((run / "experiment.json").read_text())["experiment"]
    known = [tasks.get(name) for name in config["tasks"]]
    summary.write(run, config["name"], known, config["arms"], draws=50, config=config)
    assert "| *58.47* |" in (run / "results.md").read_text()
    assert (run / "results_published.csv").exists()
    page = build([run], tmp_path / "out", draws=50)
    assert '<td class="published" data-v="58.47">58.47</td>' in page.read_text()
    assert (page.parent / "made_up_published.csv").exists()

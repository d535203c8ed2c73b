"""Terminal and Markdown output, including hostile names."""

import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from made_up_run import TASKS, arms, known
from rich.console import Console

from zoo_exp.report import run_document, tables
from zoo_exp.report.renderers import escape_markdown
from zoo_exp.runs.reading import read_records, read_timings
from zoo_exp.statistics.results import Results, compute

HOSTILE = "<script>alert(1)</script> | [x](y) *b* `c` _d_\n# $1$ [red]e[/red]"


@pytest.fixture
def results(make_run) -> Results:
    run = make_run(images=30)
    return compute("made_up", read_records(run), read_timings(run), known(), arms(), draws=200)


def renamed(results: Results) -> Results:
    frame = results.frame.replace({"arm": {"zoo none @16": HOSTILE}})
    comparisons = results.comparisons.replace({"against": {"zoo none @16": HOSTILE}})
    return Results(HOSTILE, results.tasks, frame, comparisons, [HOSTILE], 200, 0)


def printed(results, width=120):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    run_document.show(results, console)
    return console.file.getvalue()


def wide(results, names):
    """The same results with more tasks."""
    parts = [
        results.frame[results.frame["task"] == TASKS[n % 3]].assign(task=name) for n, name in enumerate(names)
    ]
    average = results.frame[results.frame["task"] == "average"]
    frame = pd.concat([*parts, average], ignore_index=True)
    return Results("wide", list(names), frame, results.comparisons, [], 200, 0)


NINE = [f"embedded_{n}" for n in tables.SHORT_NAMES]


def test_nine_tasks_fit_120_columns(results):
    text = printed(wide(results, NINE))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    header = next(line for line in text.splitlines() if line.startswith("Arm"))
    assert header.split() == ["Arm", "kept", *tables.SHORT_NAMES.values(), "Avg.", "retained", "%", "ms"]
    assert "Not shown at this width: mean score %" in " ".join(text.split())
    assert "…" not in text


def test_a_narrow_console_gets_the_averages(results):
    text = printed(wide(results, NINE), width=70)
    assert "Not shown at this width: GQA, MMB" in " ".join(text.split())
    header = next(line for line in text.splitlines() if line.startswith("Arm"))
    assert "VQAv2" not in header
    assert re.search(r"zoo multiply @16 +16 +\d+\.\d \[\d+\.\d, \d+\.\d\]", text)


def test_rows_show_what_the_frame_holds(results):
    row = next(line for line in printed(results).splitlines() if line.startswith("zoo multiply"))
    frame = results.frame[results.frame["arm"] == "zoo multiply @16"].set_index("task")
    average = frame.loc["average"]
    share = f"{average['retained']:.1f} [{average['retained_low']:.1f}, {average['retained_high']:.1f}]"
    assert share in row
    for task in TASKS:
        assert f"{100 * frame.loc[task, 'value']:.1f}" in row
    assert row.split()[-2:] == ["0.50", "10.00"]


def test_points_are_not_shown_as_percents(results):
    names = ["embedded_mme", *TASKS[1:]]
    points = Results("x", names, results.frame, results.comparisons, [], 200, 0)
    assert tables.display_scale(points, "embedded_mme") == 1
    assert tables.display_scale(points, TASKS[1]) == 100


def test_the_legend_describes_how_numbers_were_computed(results):
    text = " ".join(printed(results).split())
    for words in (
        "paired bootstrap over images",
        "200 resamples, seed 0",
        "mean over tasks of the metric relative to that of the full model",
    ):
        assert words in text
    assert re.search(r"across seeds: random @16 \d", text)
    assert re.search(r"Mean score of the full model over 3 tasks: \d+\.\d \[.*\] %, n = 270", text)


def test_terminal_shows_hostile_names_as_they_are(results):
    text = " ".join(printed(renamed(results), width=250).split())
    assert " ".join(HOSTILE.split()) in text


def test_markdown_is_well_formed(results):
    text = run_document.markdown_document(results, "masks.png")
    assert "![Kept visual tokens by arm](masks.png)" in text
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert (
        len(blocks) == 3 + len(TASKS) + 1
    )  # results, paired differences, contribution; tasks; details of POPE
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "**" in blocks[0]
    assert "## embedded\\_pope: pope\\_f1\\_score, n = 90 questions, 30 images" in text


def test_markdown_shows_flops_where_they_were_counted(results):
    assert "GFLOP |" not in run_document.markdown_document(results)
    counted = replace(results, frame=results.frame.assign(flops_tflop=0.00125))
    assert re.search(r"^\| Arm .* GFLOP \|$", run_document.markdown_document(counted), re.MULTILINE)
    assert re.search(r"^\| full .* 1\.25 \|$", run_document.markdown_document(counted), re.MULTILINE)


@pytest.mark.parametrize(("tflop", "head", "cell"), [(0.00125, "GFLOP", "1.25"), (8.50412, "TFLOP", "8.504")])
def test_the_terminal_shows_flops_beside_the_selectors_time(results, tflop, head, cell):
    assert "FLOP" not in printed(results, width=250).split("Metrics in percent")[0]
    text = printed(replace(results, frame=results.frame.assign(flops_tflop=tflop)), width=250)
    assert re.search(rf"ms +{head}", text)
    assert re.search(rf"^full .* {re.escape(cell)} *$", text, re.MULTILINE)
    assert "including vision encoder and selector" in " ".join(text.split())


def test_markdown_escapes_names_and_notes(results):
    text = run_document.markdown_document(renamed(results))
    assert escape_markdown(HOSTILE) in text
    assert "<script" not in re.sub(r"\\.", "", text)
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)<|(?<!\\)`", line)


def test_csv_and_json_hold_the_whole_frame(results, tmp_path):
    run_document.write_csv(results, tmp_path / "r.csv")
    run_document.write_json(results, tmp_path / "r.json")
    back = pd.read_csv(tmp_path / "r.csv")
    assert list(back.columns) == list(results.frame.columns)
    assert back["value"].tolist() == pytest.approx(results.frame["value"].tolist(), rel=1e-5)
    document = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert len(document["rows"]) == len(results.frame)
    assert document["rows"][0]["options"] == {}
    assert document["rows"][0]["flops_tflop"] is None
    assert {pair["significant"] for pair in document["comparisons"]} <= {True, False}


def test_headers_of_tasks():
    assert [tables.short_name(n) for n in ("embedded_gqa", "pope", "vqav2_val", "something_long")] == [
        *("GQA", "POPE", "VQAv2", "somethi")
    ]
    assert tables.unique_short_names(["textvqa", "textvqa_ocr", "mme"]) == {
        "textvqa": "textvqa",
        "textvqa_ocr": "textvqa_ocr",
        "mme": "MME",
    }

"""A CSV file of ours runs nothing in a spreadsheet and moves no cursor, whatever a question or a response holds."""

import csv
import io
import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import compute

from zoo_exp.files import SUSPECT, csv_cell
from zoo_exp.report.renderers import csv_text
from zoo_exp.report.run_document import csv_of
from zoo_exp.report.tabular import Cell, Column, Table
from zoo_exp.runs import merge
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.records import Record

FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3+cmd",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\uff1d1",
    "=",
    "+",
    "@",
)
CONTROLS = ("\x1b[31m=1", "a\x1b[2Jb", "\x00", "\x9b1m", "\x0b=1", "a\rb")
ATTACKS = (*FORMULAS, *CONTROLS, "-1e", "=-5", "=", "+", "@")
HARMLESS = (
    "+28.5 [+12.1, -46.0]",
    "-3 %",
    "-5",
    "+3.5",
    "-1e-5",
    "-.5",
    "12%",
    "-",
    "",
    "a = b",
    "yes",
    "a-b",
    "\u00e9",
    "a\tb",
    "a\nb",
    "(-5)",
    "x@y.org",
)
SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


def is_safe(text):
    """Nothing that a spreadsheet would run, and no control characters."""
    if any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 for c in text):
        return False
    if not text or text == "-":
        return True
    if text[0] in "\t\r\n" or text.lstrip(" \t\n")[:1] in tuple(SIGNS):
        if re.search("[a-df-zA-DF-Z_]", text):  # float() reads `inf`, `nan` and `1_0`
            return False
        try:
            return [float(part) for part in re.split(r" \[|, |\]$", text.rstrip("% ")) if part] != []
        except ValueError:
            return False
    return True


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(SIGNS + "\t\r\n \x1b0159.e%"))))
@example("=")
def test_every_text_is_safe_and_can_be_read(text):
    got = csv_cell(text)
    assert is_safe(got)
    assert csv_cell(got) == got
    if is_safe(text):
        assert got == text


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_are_neutralised(text):
    assert not is_safe(text)
    assert is_safe(csv_cell(text))


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_unchanged(text):
    assert csv_cell(text) == text


@given(
    st.text(
        alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(SIGNS + "\t\r\n \x1b"))
    )
)
def test_the_quick_search_finds_every_text_that_is_changed(text):
    found = compute.match_substring_regex(pa.array([text]), SUSPECT)[0].as_py()
    assert found or csv_cell(text) == text


@pytest.mark.parametrize("value", [None, -5, 1.5, True])
def test_values_that_are_no_text_stay(value):
    assert csv_cell(value) is value


def test_tables_and_frames():
    columns = (Column("a", lambda line: line),)
    cells = [(Cell(text),) for text in ATTACKS]
    table = Table("t", "t", columns, (*cells, (Cell("-1.5 [-2, -1]", -1.5),)))
    rows = list(csv.reader(io.StringIO(csv_text(table))))
    assert all(is_safe(row[0]) for row in rows[1:-1])
    assert rows[-1] == ["-1.5 [-2, -1]"]
    frame = pd.DataFrame({"text": ATTACKS, "number": [-1.5] * len(ATTACKS)})
    back = pd.read_csv(io.StringIO(csv_of(frame)), keep_default_na=False)
    assert all(map(is_safe, back["text"]))
    assert back["number"].tolist() == [-1.5] * len(ATTACKS)


def test_the_records_of_a_run(tmp_path):
    """The file for spreadsheets is safe; the files for programs hold what was recorded."""
    rows = [record(text, number) for number, text in enumerate((*ATTACKS, *HARMLESS))]
    with Journal(tmp_path, "records", "a") as journal:
        journal.append(rows)
    merge.merge(tmp_path)
    with (tmp_path / "records.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    exact = pq.read_table(tmp_path / "records.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert len(cells) == len(exact) == len(lines) == len(rows)
    for cell, row, line in zip(cells, exact, lines, strict=True):
        assert all(map(is_safe, cell.values()))
        for column in ("question", "response", "reference", "sample_id"):
            assert cell[column] == csv_cell(row[column])
            assert row[column] == line[column]
        assert float(cell["flops_tflop"]) == row["flops_tflop"] == 0.25
    assert {row["response"] for row in exact} == {*ATTACKS, *HARMLESS}
    assert "'=1+1" not in (tmp_path / "records.jsonl").read_text()


def record(text, number):
    made = Record(
        task="gqa", cell="c", arm="full", arm_id="id", row="full", selector="full", options={"k": text}, budget=None,
        seed=0, sample_id=f"{number:02}{text}", image_id="i", question=text, reference=text, response=text, score=1.0,
        parts={"score": 1.0}, kept_tokens=16, layer_tokens=None, n_visual=144, prompt_tokens=20, new_tokens=2,
        flops_tflop=0.25,
    )  # fmt: skip
    return made.to_row()

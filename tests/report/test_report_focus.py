"""A report about one arm, and several runs side by side."""

import csv
import json
from dataclasses import replace

import pytest

from zoo_exp.cli import main
from zoo_exp.errors import UnknownNameError
from zoo_exp.report.build import build
from zoo_exp.report.runs import results_of
from zoo_exp.report.side_by_side import side_by_side
from zoo_exp.runs.load import find_runs, load_run
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.compare_runs import compare_runs
from zoo_exp.statistics.focus import focus_rows

ZOO, NONE = "zoo multiply @16", "zoo none @16"


def test_the_focus_is_compared_with_every_other_arm_of_its_budget(make_whole_run):
    run = load_run(make_whole_run())
    results = results_of(run, draws=100, focus=NONE)
    assert results.focus == NONE
    assert results.focus_comparisons["arm"].unique().tolist() == [NONE]
    against = results.focus_comparisons.set_index("against")
    assert set(against.index) == {ZOO, "random @16 (2 seeds)"}
    best = results.comparisons.set_index("against").loc[NONE]
    assert against.loc[ZOO, "difference"] == pytest.approx(-best["difference"])
    assert against.loc[ZOO, ["low", "high"]].tolist() == pytest.approx([-best["high"], -best["low"]])


def test_outcomes_are_the_questions_that_the_rule_names(make_whole_run):
    run = load_run(make_whole_run())
    table = results_of(run, draws=50, focus=NONE).outcomes
    scores = run.records.pivot_table(index=["task", "sample_id"], columns="arm", values="score")
    mine, random = (
        scores[NONE] >= 0.5,
        scores["random @16"] >= 0.5,
    )  # the only other selector: mean of its two seeds
    found = {
        kind: set(zip(part["task"], part["sample_id"], strict=True)) for kind, part in table.groupby("kind")
    }
    assert found == {
        "success": set(scores.index[mine & ~random]),
        "failure": set(scores.index[~mine & random]),
    }
    assert table["kind"].tolist() == sorted(table["kind"], key=["success", "failure"].index)


def test_names_of_the_focus(make_whole_run):
    rows = results_of(load_run(make_whole_run()), draws=20).rows
    assert [row.row for row in focus_rows(rows, "zoo multiply")] == [ZOO]
    assert [row.row for row in focus_rows(rows, "zoo")] == [ZOO, NONE]
    with pytest.raises(UnknownNameError, match="Did you mean 'zoo multiply @16'"):
        focus_rows(rows, "zoo multiplied @16")


def test_the_report_has_the_tables_and_galleries_of_the_focus(make_whole_run, tmp_path, capsys):
    run = make_whole_run()
    assert main(["report", str(run), "--focus", NONE, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert f"{NONE} against the others" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80  # the last line is the path of the page
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"Successes of {NONE}: " in page
    rows = list(csv.DictReader((tmp_path / "out" / "tables" / "made_up_outcomes.csv").open()))
    assert {row["kind"] for row in rows} == {"success", "failure"}
    assert main(["report", str(run), "--focus", "mine"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_runs_stand_side_by_side_with_the_differences_of_compare(make_whole_run):
    paths = [make_whole_run("a"), make_whole_run("a", run_id="ffff", name="big", path="big")]
    lines = [json.loads(line) for line in (paths[1] / "records.jsonl").read_text().splitlines()]
    for number, row in enumerate(lines):
        if number % 7 == 0:
            row["score"] = row["parts"]["score"] = 0.0
    (paths[1] / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    runs = [load_run(path) for path in paths]
    results = [results_of(run, draws=100) for run in runs]
    table = side_by_side(runs, results)
    assert table.headers == ["Arm", "embedded %", "big %", "big - embedded (points)"]
    by_arm = {row[0].text: row for row in table.rows}
    pair = (
        compare_runs(paths[::-1], [ZOO], draws=100).pairs[0].frame.set_index("task").loc["average retained"]
    )
    cell = by_arm[ZOO][3]
    assert cell.value == pytest.approx(pair["difference"])
    assert cell.text == f"{pair['difference']:+.1f} [{pair['low']:+.1f}, {pair['high']:+.1f}]"
    fewer = replace(runs[1], answers=Answers.of(runs[1].records[runs[1].records["sample_id"] != "000-0"]))
    unpaired = side_by_side([runs[0], fewer], results)
    assert unpaired.headers == ["Arm", "embedded %", "big %"]
    assert "their tasks or questions differ" in unpaired.notes[0]


def test_all_takes_every_run_of_a_folder(make_whole_run, tmp_path):
    for name in ("aaaa", "bbbb", "aaaa.before1"):
        make_whole_run("swept", run_id=name)
    folder = tmp_path / "runs" / "swept"
    assert [run.name for run in find_runs([folder], every=True)] == ["aaaa", "bbbb"]
    build(find_runs([folder], every=True), tmp_path / "out", draws=50)
    assert "Side by side" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "tables" / "side_by_side.csv").is_file()

"""A sweep as one table and one curve."""

import json

import pytest
from rich.console import Console

from zoo_exp.report.sweep_report import EVERYWHERE, Point, curve, load, sweep_table, swept, write


@pytest.fixture
def points(make_whole_run):
    """Two points of `selector.options.power`; the arm of zoo differs, the others are the same."""
    runs = []
    for power in (1, 2):
        run = make_whole_run("swept", run_id=f"run{power}")
        new = {"arm": f"zoo power={power} @16", "options": {"power": power}, "arm_id": f"p{power}"}
        manifest = json.loads((run / "experiment.json").read_text())
        arms = [
            arm | new if arm["arm"] == "zoo multiply @16" else arm for arm in manifest["experiment"]["arms"]
        ]
        manifest["experiment"]["arms"] = arms
        (run / "experiment.json").write_text(json.dumps(manifest))
        rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
        rows = [row | new if row["arm"] == "zoo multiply @16" else row for row in rows]
        (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs.append(run)
    return [["selector=zoo", f"selector.options.power={power}"] for power in (1, 2)], runs


def test_what_is_swept():
    assert swept([["+exp=a", "budget=16"], ["+exp=a", "budget=8"]]) == [{"budget": "16"}, {"budget": "8"}]
    assert swept([["model=a"], ["model=b"], ["model=b", "seed=1"]])[2] == {"model": "b", "seed": "1"}


def test_a_line_per_point_and_arm_and_arms_of_all_points_once(points):
    overrides, runs = points
    found, notes = load(overrides, runs, draws=50)
    assert not notes
    table = sweep_table(found)
    lines = [(row[0].text, row[1].text) for row in table.rows]
    assert ("power=1", "zoo power=1 @16") in lines
    assert ("power=2", "zoo power=2 @16") in lines
    assert lines.count((EVERYWHERE, "full")) == 1
    assert "full" not in [arm for point, arm in lines if point != EVERYWHERE]
    retained = table.headers.index("Avg. retained %")
    by_arm = {row[1].text: row for row in table.rows}
    line = found[1].results.lines["zoo power=2 @16"]["average"]
    assert by_arm["zoo power=2 @16"][retained].value == pytest.approx(line["retained"])


def test_the_table_is_printed_at_80_columns_and_written_with_a_curve(points, tmp_path):
    overrides, runs = points
    (runs[1] / "records.jsonl").rename(runs[1] / "away")
    console = Console(width=80, record=True)
    third = [*overrides, ["selector=zoo", "selector.options.power=3"]]
    (runs[1] / "away").rename(runs[1] / "records.jsonl")
    write(tmp_path / "out", third, [*runs, tmp_path / "nowhere"], console, draws=50)
    printed = console.export_text()
    assert "power=3: left out" in printed.replace("\n", " ")
    assert max(len(line) for line in printed.splitlines() if "/" not in line) <= 80
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"sweep.md", "sweep.csv", "sweep.tex", "curve.png", "curve.svg"} <= names


def test_no_curve_without_values_to_compare(points, tmp_path):
    overrides, runs = points
    found, _ = load(overrides, runs, draws=20)
    assert not curve([Point({}, found[0].results)], tmp_path / "curve")
    assert not curve(found[:1], tmp_path / "curve")

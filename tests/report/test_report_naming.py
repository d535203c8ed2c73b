"""Names that distinguish runs of one experiment in a report."""

import json

from zoo_exp.report.build import build
from zoo_exp.report.section import slugs
from zoo_exp.runs.load import load_run
from zoo_exp.runs.titles import titles


def typed(run, *overrides):
    manifest = json.loads((run / "experiment.json").read_text())
    manifest["experiment"]["overrides"] = list(overrides)
    (run / "experiment.json").write_text(json.dumps(manifest))
    return run


def test_points_of_a_sweep_are_named_by_what_differs(make_whole_run, tmp_path):
    folders = [
        typed(make_whole_run("made_up", run_id="a"), "+exp=made_up", "budget=8", "limit=20", "out=x"),
        typed(make_whole_run("made_up", run_id="b"), "+exp=made_up", "budget=16", "limit=20"),
        typed(make_whole_run("made_up", run_id="c"), "+exp=made_up", "limit=20"),
        typed(make_whole_run("other", run_id="d"), "budget=8"),
    ]
    runs = [load_run(folder) for folder in folders]
    assert titles(runs) == ["made_up (budget=8)", "made_up (budget=16)", "made_up (as configured)", "other"]
    names = slugs(runs)
    assert len(set(names)) == 4
    assert names[3] == "other"
    page = build(folders, tmp_path / "out", draws=50)
    assert "<h2>made_up (budget=8)</h2>" in page.read_text()
    assert "## made\\_up (budget=16)" in (page.parent / "report.md").read_text()
    tables = {path.name for path in page.parent.glob("*.tex")}
    assert tables == {*(f"{name}.tex" for name in names), "side_by_side.tex"}


def test_runs_that_were_typed_alike_are_named_by_their_ids(make_whole_run):
    runs = [load_run(make_whole_run("made_up", run_id=name)) for name in ("a", "b")]
    assert titles(runs) == ["made_up (a)", "made_up (b)"]


def test_models_distinguish_runs_in_file_names(make_whole_run):
    one, two = (load_run(make_whole_run("x y", run_id=name, name=name)) for name in ("m1", "m/2"))
    assert slugs([one, two]) == ["x-y-m1", "x-y-m-2"]
    assert slugs([one]) == ["x-y"]

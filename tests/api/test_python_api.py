"""`zoo_exp.run`, `load_run` and `compare`: the documented Python API."""

import json
import re
from pathlib import Path

import pytest

import zoo_exp
from zoo_exp import api, selectors
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError

DOCS = Path(__file__).parents[2] / "docs"
ARMS = ("full", "divprune @16", "zoo multiply @16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The parent of the run folders of this module."""
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def results(folder):
    """A run of two tasks and three arms."""
    return zoo_exp.run(
        "logger=none",
        task=["embedded_gqa", "embedded_mme"],
        selector=["full", "divprune", "zoo"],
        budget=16,
        limit=3,
        out=folder / "runs",
        quiet=True,
    )


def test_the_results_of_a_run(results):
    assert len(results.records) == len(ARMS) * (3 + 6)
    assert {"task", "arm", "sample_id", "response", "score", "kept_tokens"} <= set(results.records)
    assert list(results.table.index) == list(ARMS)
    assert list(results.table) == ["embedded_gqa", "embedded_mme", "average"]
    full = results.results.query("arm == 'full' and task == 'embedded_gqa'").iloc[0]
    assert results.table.loc["full", "embedded_gqa"] == pytest.approx(100 * full["value"])
    assert results.table.loc["full", "embedded_mme"] > 100  # points
    assert any("fewer than 100 units" in note for note in results.notes)
    assert "| full |" in results.markdown()
    assert r"\toprule" in results.latex()
    assert "divprune @16" in repr(results)
    assert "<table" in results._repr_html_()


def test_what_it_gives_away_is_a_copy(results):
    del results.records["score"]
    del results.results["value"]
    assert "score" in results.records
    assert "value" in results.results


def test_the_same_call_asks_nothing_again_and_prints_its_table(results, folder, capsys):
    again = zoo_exp.run(
        "logger=none", "task=[embedded_gqa,embedded_mme]", "selector=[full,divprune,zoo]", "limit=3",
        budget=[16], out=str(folder / "runs"),
    )  # fmt: skip
    assert again == results
    assert "divprune @16" in capsys.readouterr().out


def test_a_run_is_loaded_from_its_folder_or_the_one_above(results):
    for path in (results.folder, results.folder.parent, str(results.folder)):
        assert zoo_exp.load_run(path).records.equals(results.records)


def test_masks_of_a_question(results):
    row = results.records.query("task == 'embedded_gqa'").iloc[0]
    image = results.masks(row["sample_id"], "embedded_gqa")
    assert image.width > results.masks(row["sample_id"], "embedded_gqa", ["zoo multiply @16"]).width
    guess = r"unknown arm with masks 'zo multiply @16'. Did you mean 'zoo multiply @16'"
    with pytest.raises(UnknownNameError, match=guess):
        results.masks(row["sample_id"], "embedded_gqa", ["zo multiply @16"])
    with pytest.raises(UnknownNameError, match="unknown question 'nothing'"):
        results.masks("nothing")
    with pytest.raises(UnknownNameError, match="unknown task of this run 'embedded_gqaa'"):
        results.masks(row["sample_id"], "embedded_gqaa")


def test_two_arms_are_compared(results):
    found = zoo_exp.compare(results, arms=["divprune @16", "zoo multiply @16"], draws=50)
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("divprune @16", "zoo multiply @16")
    lines = pair.frame.set_index("task")
    table = results.table
    assert lines.loc["embedded_gqa", "first"] == pytest.approx(table.loc["divprune @16", "embedded_gqa"])
    with pytest.raises(UnknownNameError, match="zoo multiply @15"):
        zoo_exp.compare(results.folder, arms=["zoo multiply @15"])


def test_a_selector_of_a_notebook_runs_by_its_name(folder, monkeypatch, capsys):
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    text = (DOCS / "adding_a_selector.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], {"__name__": "notebook"})
    found = zoo_exp.run(
        selector=("full", "far_from_mean"), task="embedded_gqa", budget=16, limit=2, logger="none",
        out=folder / "runs", quiet=True,
    )  # fmt: skip
    assert list(found.table.index) == ["full", "far_from_mean @16"]
    assert capsys.readouterr().out == ""


def test_values_become_overrides():
    assert api.overrides(exp="a", limit=None, fresh=True, **{"trainer.devices": 2}) == [
        "+exp=a",
        "limit=null",
        "fresh=true",
        "trainer.devices=2",
    ]
    assert api.overrides(out=Path("a b"), budget=(64, "11.1%")) == ["out='a b'", "budget=[64,11.1%]"]


def test_errors_are_those_of_the_command_line(folder, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown config key 'budgt'"):
        zoo_exp.run(budgt=16)
    with pytest.raises(InvalidValueError, match="several values"):
        zoo_exp.run("budget=16,32", selector="zoo")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValueError, match="is a file; give a folder"):
        zoo_exp.run(selector="full", task="embedded_gqa", out=tmp_path / "file")
    with pytest.raises(MissingFileError, match="no folder"):
        zoo_exp.load_run(tmp_path / "nothing")
    with pytest.raises(MissingFileError, match="no run with records"):
        zoo_exp.load_run(tmp_path)


def test_every_name_of_the_api_is_documented():
    page = (DOCS / "python.md").read_text()
    for name in ("run", "load_run", "compare", "load_model", "pruned", "attach", "detach"):
        assert f"zoo_exp.{name}(" in page, name
    public = [name for name in dir(api.Results) if not name.startswith("_")]
    for name in (*public, "folder"):
        assert re.search(rf"`\.{name}\b", page), name
    assert set(zoo_exp.__all__) == {"__version__", *zoo_exp._LAZY}


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Every code cell of the notebook, in one namespace, as Jupyter runs it; nothing is shown in the committed file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    notebook = json.loads((DOCS / "examples" / "workbench.ipynb").read_text())
    assert notebook["nbformat"] == 4
    names = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert list(names["results"].table.index) == ["full", "divprune @16", "edges @16"]
    assert len(names["changed"]) >= 0
    assert names["image"].width > 100

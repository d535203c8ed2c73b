"""docs/adding_a_task.md: its file, its class and its recipe for a package work as written."""

import csv
import io
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from zoo_exp import cli, tasks
from zoo_exp.config import compose
from zoo_exp.embedded import benchmarks
from zoo_exp.tasks import own_files
from zoo_exp.tasks.own_rows import COLUMNS, METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_task.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The current folder, with a package made as the page says, and data from the embedded world."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks.REGISTRY, "_added", {})
    group, line = block("toml").strip().splitlines()
    name, target = line.replace('"', "").split(" = ")
    module = tmp_path / "site" / f"{target.partition(':')[0].replace('.', '/')}.py"
    module.parent.mkdir(parents=True)
    (module.parent / "__init__.py").touch()
    module.write_text(block("python"))
    info = tmp_path / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    section = group.removeprefix('[project.entry-points."').removesuffix('"]')
    (info / "entry_points.txt").write_text(f"[{section}]\n{name} = {target}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)  # of another test
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "data" / "defects").mkdir(parents=True)
    rows = []
    for number, row in enumerate(benchmarks.rows("pope", units=6)):
        image = io.BytesIO()
        row["image"].save(image, "PNG")
        given = {"question": row["question"], "answer": row["answer"]}
        rows.append({"id": number, "image": {"bytes": image.getvalue(), "path": None}, **given})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "defects" / "test.parquet")
    vars(tasks.REGISTRY).pop("_installed", None)
    yield tmp_path
    vars(tasks.REGISTRY).pop("_installed", None)


def test_the_benchmark_runs_from_a_package(package, capsys):
    code = block("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    assert cli.main(["list", "tasks"]) == 0
    assert "F1 score of yes" in capsys.readouterr().out
    assert cli.main(["data", "check", "defects", "--root", "data"]) == 0
    words = [
        "task=defects",
        "data=folder",
        "data.root=data",
        "selector=[full,blind]",
        "limit=6",
        "logger=none",
    ]
    assert cli.main(["run", *words, "out=runs"]) == 0
    (results,) = package.glob("runs/custom/*/results.csv")
    lines = list(csv.DictReader(results.read_text().splitlines()))
    full = next(line for line in lines if line["arm"] == "full" and line["task"] == "defects")
    assert full["metric"] == "f1"
    assert 0 < float(full["value"]) <= 1


def test_an_edited_class_is_asked_again(package):
    def cell():
        (found,) = compose(["task=defects", "selector=full"]).cells()
        return found.id

    before = cell()
    module = package / "site" / "my_package" / "defects.py"
    module.write_text(module.read_text().replace('startswith("yes")', 'startswith("no")'))
    assert cell() != before


def test_the_file_of_the_page_is_one_and_every_column_and_metric_is_described(tmp_path, monkeypatch):
    monkeypatch.setattr(own_files, "_opened", {})
    (tmp_path / "my.jsonl").write_text(block("json"))
    task = tasks.given(str(tmp_path / "my.jsonl"))
    assert [row["answer"] for row in task.rows().texts()] == ["red", "3"]
    for name in (*COLUMNS, *METRICS):
        assert f"| `{name}` |" in PAGE

"""Markup in data is text; no page, document or W&B file names a local folder or a host."""

import ast
import io
import json
import socket
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console
from wandb_file import read_back

from zoo_exp import pipeline, sharing, tasks
from zoo_exp.cli import main
from zoo_exp.config import compose
from zoo_exp.console import plain_console
from zoo_exp.report import summary
from zoo_exp.report.build import build
from zoo_exp.tracking.final_run import log_run

PACKAGE = Path(sharing.__file__).parent
NAMES = ["[/b]", "a[red]b[/red]", "[bold]", ":smile:", "x [link=y]z", "[not markup"]


@cache
def all_calls():
    """Calls of the package by the name of what is called: file, call."""
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                found[name].append((path.relative_to(PACKAGE).as_posix(), node))
    return found


def calls(name):
    """Every call of a function or class of this name in the package: file, call."""
    return all_calls()[name]


def test_no_console_reads_markup():
    """Only `plain_console` makes consoles; nothing asks rich to read text as markup."""
    made = {path for name in ("Console", "_Console") for path, _ in calls(name)}
    assert made == {"console.py"}
    assert list(calls("from_markup")) == []
    assert [
        path
        for path, call in calls("print")
        if any(k.arg == "markup" and k.value.value for k in call.keywords)
    ] == []


def test_no_progress_column_reads_markup():
    columns = list(calls("TextColumn"))
    assert len(columns) > 3
    for path, call in columns:
        (text,) = (argument.value for argument in call.args)
        off = [k for k in call.keywords if k.arg == "markup" and k.value.value is False]
        assert off or "{" not in text, (path, text)


@pytest.mark.parametrize("name", NAMES)
def test_a_console_prints_names_as_they_are(name):
    console = plain_console(file=io.StringIO(), width=200)
    console.print(f"{name} in /some/{name}")
    assert console.file.getvalue() == f"{name} in /some/{name}\n"


@pytest.mark.parametrize("console", [Console, plain_console])
def test_a_run_prints_markup_in_its_name_and_folder_as_it_is(tmp_path, console):
    """Whatever console the caller brings: a bracket in a path is neither a style nor an error."""
    out = tmp_path / "a[red]b[" / "c"
    shown = console(file=io.StringIO(), width=300)
    experiment = compose(
        ["selector=[full,zoo]", "budget=16", "task=embedded_pope", "limit=2", "logger=none", "trainer=cpu",
         "name='[bold]x[dim]'", f"out='{out}'"]
    )  # fmt: skip
    assert pipeline.run(experiment, shown) == 0
    text = shown.file.getvalue()
    assert f"records in {experiment.run_dir}" in text
    assert f"tables, records and figures: {experiment.run_dir}" in text
    assert "[bold]x[dim]: 4 answers" in text


HOST = "gpu-node-17.cluster"


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host whose name is no part of other words."""
    real = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    return real


def local(run, root):
    """A run whose configuration names folders of this machine wherever one may stand."""
    manifest = json.loads((run / "experiment.json").read_text())
    experiment = manifest["experiment"]
    experiment["out"] = str(root / "runs")
    experiment["question"] = f"does [red]{root}/notes.txt[/red] matter on {HOST}?"
    experiment["data"] = {"root": str(root / "data"), "workers": 2}
    experiment["cache"] = {"features": f"{root}/cache", "limit_gb": None}
    experiment["model"] = {**experiment.get("model", {}), "name": "mine", "path": str(root / "model")}
    experiment["overrides"] = [
        f"out={root}/runs", f"data.root={root}/data", f"+cache.features='{root}/cache'",
        f"model.path={root}/model", f"question=does {root}/notes.txt matter", "seed=1", "logger=none",
    ]  # fmt: skip
    (run / "experiment.json").write_text(json.dumps(manifest))
    return experiment


def private(root):
    return [str(root), str(Path.home()) + "/", str(Path.cwd()), HOST]


def test_a_report_names_no_local_folder_and_no_host(make_whole_run, tmp_path):
    run = make_whole_run()
    local(run, tmp_path)
    page = build([run], tmp_path / "page", draws=50)
    written = [
        path for path in page.parent.rglob("*") if path.suffix in (".html", ".md", ".tex", ".csv", ".svg")
    ]
    assert len(written) > 4
    for path in written:
        text = path.read_text()
        assert [word for word in private(tmp_path) if word in text] == [], path.name
    shown = page.read_text()
    for name in ("data.root", "cache.features", "model.path"):
        assert f"{name}=&lt;{name}&gt;" in shown
    assert "[red]" in shown
    assert "seed=1" in shown


def test_wandb_files_name_no_local_folder_and_no_host(make_whole_run, tmp_path, monkeypatch, host):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    run = make_whole_run()
    config = local(run, tmp_path)
    arms = [arm for arm in config["arms"] if isinstance(arm, dict)]
    summary.write(run, "made_up", list(map(tasks.get, config["tasks"])), arms, draws=50, config=config)
    log_run(run, config, "offline", echo=lambda line: None)
    (folder,) = (run / "wandb").glob("offline-run-*")
    sent = read_back(folder)
    text = json.dumps([sent["config"], sent["history"], str(sent["run"]), sent["files"]], default=str)
    # W&B resolves the names of media below its own folder when it uploads them.
    assert [word for word in private(tmp_path) if word in text.replace(str(folder), "")] == []
    assert sent["run"].host != host
    assert sent["config"]["data"]["root"] == "<data.root>"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cannot read /srv/team/data/pope/x.parquet", "cannot read <data.root>/pope/x.parquet"),
        ("see /opt/other/file.txt.", "see <path>/file.txt."),
        ("~/secret/place", "~/secret/place"),
        ("model llava-hf/llava-1.5-7b-hf", "model llava-hf/llava-1.5-7b-hf"),
        ("yes/no, 3/4 and https://example.org/a/b", "yes/no, 3/4 and https://example.org/a/b"),
    ],
)
def test_text_to_share(given, shown):
    assert sharing.text(given, {"data": {"root": "/srv/team/data"}}) == shown


def test_the_report_command_prints_folders_as_they_are(make_whole_run, tmp_path, capsys):
    page = tmp_path / "[red]p[/b]"
    assert main(["report", str(make_whole_run()), "--out", str(page)]) == 0
    assert str(page / "index.html") in capsys.readouterr().out

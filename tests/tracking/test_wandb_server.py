"""W&B against a loopback server: the real client syncs an offline run and saves a report."""

import json
import os
import subprocess
import sys

import pytest
from loopback_wandb import ENTITY, Server
from made_up_run import arms, known

from zoo_exp.report import summary
from zoo_exp.tracking.final_run import log_run

pytestmark = pytest.mark.slow


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def environment(server, tmp_path):
    """A W&B of its own: no account, no cache, and this server only."""
    folders = {f"WANDB_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    keys = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "NETRC": str(tmp_path / "netrc")}
    return {**os.environ, **folders, **keys, "WANDB_SILENT": "true"}


def test_an_offline_run_syncs_with_its_numbers_table_and_masks(
    make_run, server, environment, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", environment["WANDB_CONFIG_DIR"])
    monkeypatch.setenv("WANDB_CACHE_DIR", environment["WANDB_CACHE_DIR"])
    run = make_run(images=6)
    results = summary.write(run, "made_up", known(), arms(), draws=50)
    folder = log_run(run, {"name": "made_up"}, echo=lambda line: None)
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,  # it leaves logs behind
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (about,) = server.runs.values()
    assert (about["groupName"], about["displayName"]) == ("made_up", "made_up")
    (history,) = server.history.values()
    frame = results.frame.set_index(["arm", "task"])
    line = history[-1]
    assert line["retained/zoo multiply @16"] == pytest.approx(
        frame.loc[("zoo multiply @16", "average"), "retained"]
    )
    assert line["kept_tokens/full"] == 144
    assert any("media/images" in path for path in server.uploads)
    assert any("results" in path and path.endswith(".table.json") for path in server.uploads)
    assert all(artifact["state"] == "COMMITTED" for artifact in server.artifacts.values())


def test_a_report_is_saved_online(make_whole_run, server, environment, tmp_path):
    pytest.importorskip("wandb_workspaces")
    command = [
        sys.executable,
        "-m",
        "zoo_exp",
        "report",
        str(make_whole_run()),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, "--wandb"],
        env=environment | {"WANDB_MODE": "online"},
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = server.reports.values()
    assert (report["entityName"], report["projectName"]) == (ENTITY, "zoo_exp")
    assert "zoo multiply @16" in report["spec"]
    kinds = [block["type"] for block in json.loads(report["spec"])["blocks"]]
    assert kinds.count("panel-grid") == 1
    assert server.url in done.stdout

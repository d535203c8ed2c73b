"""A W&B report offline: its specification says what the page says. Needs wandb-workspaces, else skipped."""

import json
import sys

import pytest

from zoo_exp.cli import main
from zoo_exp.errors import MissingFileError
from zoo_exp.tracking.wandb_report import make_report


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_without_the_package_the_error_names_what_to_install(monkeypatch, make_whole_run, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(MissingFileError, match=r"pip install .wandb-workspaces>="):
        make_report([make_whole_run()], tmp_path)


def test_disabled_wandb_creates_nothing(monkeypatch, make_whole_run, tmp_path):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "disabled" in make_report([make_whole_run()], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_offline_the_report_specification_is_saved_beside_the_page(make_whole_run, tmp_path, capsys):
    pytest.importorskip("wandb_workspaces")
    run = make_whole_run()
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--wandb"]) == 0
    assert "specification in" in capsys.readouterr().out
    specification = json.loads((tmp_path / "out" / "wandb_report.json").read_text())
    kinds = [block["type"] for block in specification["blocks"]]
    assert "panel-grid" in kinds
    text = json.dumps(specification)
    assert "zoo multiply @16" in text
    assert "retained/zoo multiply @16" in text

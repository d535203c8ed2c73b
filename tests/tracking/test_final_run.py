"""W&B offline: which mode, one line, and what was really written, read back from its file."""

import json
import os
from pathlib import Path

import pytest
from made_up_run import TASKS, arms, known
from wandb_file import read_back

from zoo_exp.errors import MissingFileError, UnknownNameError
from zoo_exp.report import summary
from zoo_exp.sharing import shareable
from zoo_exp.tracking.content import plain_key
from zoo_exp.tracking.final_run import log_run
from zoo_exp.tracking.mode import resolve_mode

VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DATA_DIR", "NETRC", "WANDB_PROJECT")


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Neither variables nor key files of whoever runs the tests, and no way out."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    return tmp_path / "netrc"


def test_the_variable_takes_precedence_over_the_configuration(monkeypatch):
    assert resolve_mode().name == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode().name == "online"
    assert "x" * 40 not in resolve_mode().reason
    assert resolve_mode("offline").name == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("online").name == "disabled"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert resolve_mode("online").name == "offline"


def test_a_key_for_another_host_is_ignored(no_account):
    no_account.write_text("machine example.org login user password abc\ndefault login u password p\n")
    assert resolve_mode().name == "offline"
    no_account.write_text("machine api.wandb.ai login user password abc\n")
    assert resolve_mode().name == "online"


def test_a_broken_netrc_is_ignored(no_account):
    no_account.write_text("machine machine machine")
    assert resolve_mode().name == "offline"


@pytest.mark.parametrize("place", ["WANDB_MODE", "configuration"])
def test_an_unknown_mode_names_the_nearest(monkeypatch, place):
    if place == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(UnknownNameError, match=rf"'offlin'\. Did you mean 'offline'.*{place}"):
        resolve_mode("offlin" if place == "configuration" else "auto")


def test_disabled_writes_nothing(tmp_path):
    lines = []
    assert log_run(tmp_path, {}, "disabled", echo=lines.append) is None
    assert lines == ["W&B: disabled (set by the configuration)."]
    assert not (tmp_path / "wandb").exists()


def test_no_results(tmp_path):
    with pytest.raises(MissingFileError, match=r"results\.json"):
        log_run(tmp_path, {}, "offline")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(MissingFileError, match="is damaged"):
        log_run(tmp_path, {}, "offline")


def test_labels_cannot_leave_the_media_folder():
    assert plain_key("a/../../b") == "a_.._.._b"
    assert plain_key("zoo multiply @11.1%") == "zoo multiply @11.1%"


def test_offline_run_holds_scalars_table_and_masks_and_is_logged_once(make_run, monkeypatch):
    run = make_run(images=8)
    results = summary.write(run, "made_up", known(), arms(), draws=50)
    lines = []
    folder = log_run(run, {"model": {"name": "embedded"}, "budgets": [16]}, echo=lines.append)
    assert folder.is_relative_to(run / "wandb")
    (line,) = lines
    assert line.startswith("W&B: offline (no API key found). To upload: ")
    assert (Path.cwd() / line.split("wandb sync ")[1]).resolve() == folder

    written = read_back(folder)
    (row,) = [r for r in written["history"] if "results" in r]
    frame = results.frame.set_index(["arm", "task"])
    for arm, task in [("zoo none @16", "embedded_pope"), ("random @16 (2 seeds)", "embedded_gqa")]:
        assert row[f"{task}/{arm}"] == pytest.approx(frame.loc[(arm, task), "value"])
    assert row["retained/full"] == 100
    assert row["kept_tokens/zoo none @16"] == 16
    assert "flops_tflop/full" not in row
    assert row["results"]["_type"] == "table-file"
    assert (row["results"]["nrows"], row["results"]["ncols"]) == results.frame.shape
    assert [row[f"masks/{task}"]["count"] for task in TASKS] == [1] * len(TASKS)
    assert row["gallery"]["count"] == 1
    assert written["config"]["model"] == {"name": "embedded"}
    assert written["run"].run_group == "made_up"
    media = [name for name in written["files"] if "mask" in name or "images" in name]
    assert media
    for name in media:
        assert (folder / "files" / name).is_file(), name

    table = json.loads((folder / "files" / row["results"]["path"]).read_text())
    assert table["columns"] == list(results.frame.columns)
    assert (run / "wandb-data" / "artifacts").is_dir()
    assert "WANDB_MODE" not in os.environ
    assert "WANDB_DATA_DIR" not in os.environ

    assert log_run(run, {}, echo=lines.append) == folder
    assert lines == [line, line]
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.parametrize("path", ["/disk/llava", "~/llava", "./llava", "../llava", "a/b/llava"])
def test_local_paths_are_not_uploaded(path):
    config = {
        "out": "/disk/runs",
        "model": {"name": "llava15_7b", "path": path, "clip": "/disk/clip"},
        "data": {"root": "/disk/data", "workers": 2},
        "cache": {"features": "/disk/cache", "limit_gb": 50.0},
        "overrides": [
            f"+model.path={path}",
            "model.clip=/disk/clip",
            "cache.features=/disk/cache",
            "data.root=/disk/data",
            "seed=1",
        ],
    }
    shown = shareable(config)
    assert "disk" not in json.dumps(shown)
    assert path not in json.dumps(shown)
    assert shown["overrides"] == [
        "+model.path=<model.path>", "model.clip=<model.clip>", "cache.features=<cache.features>",
        "data.root=<data.root>", "seed=1",
    ]  # fmt: skip
    assert shown["data"] == {"root": "<data.root>", "workers": 2}
    assert shown["model"] == {"name": "llava15_7b", "path": "<model.path>", "clip": "<model.clip>"}


def test_a_hub_id_is_uploaded():
    model = {
        "name": "llava15_7b",
        "path": "llava-hf/llava-1.5-7b-hf",
        "clip": "openai/clip-vit-large-patch14",
    }
    assert shareable({"model": model})["model"] == model

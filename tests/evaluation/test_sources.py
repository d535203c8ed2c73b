"""Checks before anything slow starts: the given folders, and whether the hub can be reached."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.evaluation import sources
from zoo_exp.models import config_file
from zoo_exp.tasks import hub


@pytest.fixture
def clean(monkeypatch):
    """A process that has not asked the hub for anything yet."""
    proxies = [f"{scheme}_proxy" for scheme in ("http", "https", "all")]
    for name in (*hub.OFFLINE, *proxies, *map(str.upper, proxies)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")  # so that monkeypatch takes away what the function sets
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    return monkeypatch


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def experiment(*overrides):
    return compose(["selector=zoo", "budget=16", "limit=2", *overrides])


@pytest.mark.parametrize("path", ["/nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/nowhere"])
def test_a_missing_model_folder_is_refused(path):
    with pytest.raises(MissingFileError, match=rf"model.path={path}: no such folder.*model.path=DIR"):
        sources.check(experiment("model=llava15_7b", f"model.path={path}", "task=gqa"))


def test_a_folder_without_a_checkpoint_is_refused_before_loading(tmp_path):
    def refused(path, error, words):
        with pytest.raises(error, match=words):
            sources.check(experiment("model=llava15_7b", f"model.path={path}", "task=embedded_pope"))

    refused(tmp_path, MissingFileError, "has no config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, MissingFileError, "has no model.safetensors")
    refused(tmp_path / "config.json", InvalidValueError, "is a file.*model.path=DIR")
    (tmp_path / "model.bin").write_bytes(b"")
    refused(tmp_path, InvalidValueError, "pickled")


def test_a_missing_data_root_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"data.root=/nowhere: no such folder.*data.root=DIR"):
        sources.check(experiment("task=gqa", "data.root=/nowhere"))
    with pytest.raises(MissingFileError, match=rf"gqa: no folder {tmp_path}/gqa\. .*hf download"):
        sources.check(experiment("task=[embedded_pope,gqa]", f"data.root={tmp_path}"))
    sources.check(experiment("task=embedded_pope", "data.root=/nowhere"))  # needs none


def test_a_path_may_start_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "benchmarks" / "gqa").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources.check(experiment("task=gqa", "data.root=~/benchmarks"))


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [(["task=embedded_pope"], False), (["task=gqa"], True), (["task=gqa", "data.root={root}"], False),
     (["model=llava15_7b", "task=embedded_pope"], True),
     (["model=llava15_7b", "model.weights=random", "task=embedded_pope"], False),
     (["model=llava15_7b", "model.path=some/other", "model.weights=random", "task=embedded_pope"], True)],
)  # fmt: skip
def test_the_hub_is_contacted_only_if_needed(clean, tmp_path, overrides, needed):
    (tmp_path / "gqa").mkdir()
    told = []
    sources.check(experiment(*(text.format(root=tmp_path) for text in overrides)), told.append)
    assert len(told) == needed
    assert ("HF_HUB_OFFLINE" in os.environ) == needed
    if needed:
        assert "cannot be reached" in told[0]
        assert os.environ["HF_ENDPOINT"] in told[0]


def test_a_reachable_hub_changes_no_setting(clean):
    with socket.create_server(("127.0.0.1", 0)) as server:
        clean.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}/mirror")
        visitor = threading.Thread(target=lambda: server.accept()[0].close())
        visitor.start()
        assert hub.go_offline_if_unreachable() is None
        visitor.join(timeout=10)
        assert not visitor.is_alive()
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"), [("HF_HUB_OFFLINE", "0"), ("HF_HUB_OFFLINE", "1"), ("http_proxy", "http://proxy:3128")]
)
def test_settings_of_the_user_stay(clean, name, value):
    clean.setenv(name, value)
    assert hub.go_offline_if_unreachable() is None
    assert os.environ[name] == value
    assert os.environ.get("HF_HUB_OFFLINE") == (value if name == "HF_HUB_OFFLINE" else None)


@pytest.mark.parametrize(
    "command",
    [["run", "selector=zoo", "budget=64", "task=gqa", "logger=none"], ["data", "check", "gqa"],
     ["run", "selector=zoo", "budget=64", "model=llava15_7b", "task=embedded_pope", "logger=none"]],
    ids=["data", "data check", "model"],
)  # fmt: skip
def test_without_a_network_the_error_comes_without_retries(clean, tmp_path, command):
    out = [f"out={tmp_path}/runs"] if command[0] == "run" else []
    clean.setenv("HF_HOME", str(tmp_path / "hf"))
    done = subprocess.run(
        [sys.executable, "-m", "zoo_exp", *command, *out],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "cannot be reached" in lines[0]
    assert lines[1].startswith("error: ")


def test_the_family_of_a_model_of_the_hub_is_refused_at_once_without_a_network(clean, tmp_path):
    """Asked before the client of the hub is, which would wait and retry for half a minute."""
    clean.setenv("HF_HOME", str(tmp_path / "hf"))
    clean.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    with pytest.raises(
        MissingFileError, match=r"model 'ORG/NAME': the hub \(.*\) cannot be reached.*model\.path=DIR"
    ):
        experiment("model=hub", "model.path=ORG/NAME", "task=embedded_pope")


def test_the_family_of_a_cached_model_is_read_without_a_network(clean, tmp_path, caplog):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    clean.setattr(hub, "go_offline_if_unreachable", lambda: "the hub cannot be reached")
    clean.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(tmp_path / "config.json"))
    clean.setattr(config_file, "read_config", lambda *_: {"model_type": "gemma3"})
    assert experiment("model=hub", "model.path=ORG/NAME", "task=embedded_pope").model.family == "gemma3"
    assert "the hub cannot be reached" in caplog.text


@pytest.mark.parametrize(
    "saved", [{"dtype": "float16"}, {"torch_dtype": "float16"}, {"text_config": {"torch_dtype": "float16"}}]
)
def test_float16_on_a_cpu_is_said(saved, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(saved))
    given = experiment("model=llava15_7b", f"model.path={tmp_path}", "task=embedded_pope").model
    assert "type model.dtype=bfloat16, or model.dtype=float32" in sources.half_on_cpu(given)
    assert sources.half_on_cpu(replace(given, dtype="auto")) == sources.half_on_cpu(given)
    assert sources.half_on_cpu(replace(given, dtype="bfloat16")) is None
    (tmp_path / "config.json").write_text('["float16"]')
    assert sources.half_on_cpu(replace(given, dtype="auto")) is None


@pytest.mark.parametrize("device", ["cpu", "cuda", None])
def test_float16_is_said_before_the_model_is_loaded(device, tmp_path, caplog):
    given = experiment("model=llava15_7b", f"model.path={tmp_path}", "task=embedded_pope").model
    with pytest.raises(MissingFileError):
        sources.load_configured(given, device)
    assert ("float16 on a CPU" in caplog.text) == (device == "cpu")

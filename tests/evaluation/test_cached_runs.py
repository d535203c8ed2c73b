"""Runs with a feature cache: the same records as without, and less time in the vision encoder."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from rich.console import Console

from zoo_exp import cli, pipeline
from zoo_exp.config import compose
from zoo_exp.config.identity import weights_id
from zoo_exp.config.schema import ModelConfig
from zoo_exp.models.tensor_store import TensorStore
from zoo_exp.runs import reading

ROOT = Path(__file__).resolve().parents[2]
# One selector per kind of need: tokens only, projector weights, keys and attention, the question, inside the LLM.
RUN = [
    "selector=[full,zoo,visionzip,cdpruner,fastv]", "budget=16", "task=[embedded_pope,embedded_textvqa]", "limit=6",
    "logger=none", "trainer=cpu",
]  # fmt: skip


def run(out, *more, base=RUN):
    """Records, milliseconds in the vision pass, and the output."""
    experiment = compose([*base, f"out={out}", *more])
    console = Console(record=True, width=250, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    assert pipeline.run(experiment, console) == 0
    spent = sum(timing.vision_ms for timing in reading.timings(experiment.run_dir) if timing.arm == "full")
    return (experiment.run_dir / "records.jsonl").read_bytes(), spent, console.export_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory, plain):
    folder = tmp_path_factory.mktemp("cache")
    records, _, printed = run(tmp_path_factory.mktemp("filled"), f"cache.features={folder}")
    assert records == plain[0]
    # Both tasks ask about the same six scenes: the second reads what the first encoded.
    assert f"vision cache {folder}: 6 images read, 6 encoded" in printed
    return folder


def test_a_second_run_reads_and_writes_the_same_records_in_less_time(plain, filled, tmp_path):
    records, spent, printed = run(tmp_path, f"cache.features={filled}")
    assert records == plain[0]
    assert "12 images read, 0 encoded" in printed
    assert spent < plain[1]


def test_other_arms_with_the_same_needs_read_the_cache(filled, tmp_path):
    arms = "selector=[full,zoo_closed_form,visionzip]"
    _, _, printed = run(tmp_path / "a", arms, f"cache.features={filled}", "budget=8")
    assert "12 images read, 0 encoded" in printed


def test_a_damaged_entry_is_logged_and_encoded_again(plain, filled, tmp_path, caplog):
    path = sorted(filled.glob("*/*.safetensors"))[3]
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"?" + whole[-8:])
    records, _, printed = run(tmp_path, f"cache.features={filled}")
    assert records == plain[0]
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == whole
    assert "0 encoded" not in printed


def test_an_experiment_with_resized_images_reads_the_cache(tmp_path):
    """The sanity experiment: its `resize` arm encodes smaller images; all other images are stored."""
    arms = ["+exp=sanity", "task=embedded_pope", "limit=6", "budget=16", "logger=none", "trainer=cpu"]
    cache = f"cache.features={tmp_path / 'cache'}"
    expected = run(tmp_path / "without", base=arms)[0]
    for name, counts in (("first", "0 images read, 6 encoded"), ("second", "6 images read, 0 encoded")):
        records, _, printed = run(tmp_path / name, cache, base=arms)
        assert counts in printed
        assert "not stored" not in printed
        assert records == expected


def test_needs_that_are_not_stored_are_reported(filled, tmp_path):
    arms = ["selector=zoo", "selector.options.layer=2", "selector.options.n_directions=8", "limit=2"]
    records, _, printed = run(tmp_path / "with", *arms, f"cache.features={filled}")
    assert "0 images read, 4 encoded; a selector needs hidden and replay, which is not stored" in printed
    assert run(tmp_path / "without", *arms)[0] == records


def test_a_full_disk_disables_the_cache_and_the_run_continues(plain, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(TensorStore, "put", full)
    assert run(tmp_path / "runs", f"cache.features={tmp_path / 'cache'}")[0] == plain[0]
    assert caplog.text.count("cannot be written (No space left on device)") == 1


def test_a_file_in_place_of_the_cache_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["run", *RUN, f"out={tmp_path}", f"cache.features={tmp_path / 'file'}"]) == 2
    assert "give a folder: cache.features=DIR" in capsys.readouterr().err


def test_a_limit_of_zero_is_refused(capsys):
    assert cli.main(["run", *RUN, "cache.limit_gb=0"]) == 2
    assert "cache.limit_gb=0.0: it must be between" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_can_fill_one_folder_at_the_same_time(plain, tmp_path):
    command = [sys.executable, "-m", "zoo_exp", "run", *RUN, f"cache.features={tmp_path / 'cache'}"]
    started = [
        warm.Popen([*command, f"out={tmp_path / name}"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for process in started:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    for name in "ab":
        (path,) = (tmp_path / name).glob("*/*/records.jsonl")
        assert path.read_bytes() == plain[0]
    store = TensorStore(tmp_path / "cache")
    assert len(list(store.folder.glob("*/*.safetensors"))) == 6
    assert not list(store.folder.glob("*/.*.tmp"))


def test_changed_weights_in_the_same_file_are_another_model(tmp_path, monkeypatch):
    import os

    from zoo_exp.config import identity

    monkeypatch.setattr(identity, "LARGEST_HASHED_FILE", 8)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 20)
    os.utime(weights, (1, 1))
    config = ModelConfig(name="x", path=str(tmp_path))
    before = weights_id(config)
    assert weights_id(config) == before
    weights.write_bytes(b"b" * 20)
    assert weights_id(config) != before

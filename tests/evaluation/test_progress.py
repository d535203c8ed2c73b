"""What a user sees while a run loads and answers."""

import io
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cpu_clock import cpu_seconds_of
from rich.console import Console

from zoo_exp import console as consoles
from zoo_exp.evaluation import progress as bars
from zoo_exp.evaluation.sources import describe_model
from zoo_exp.models import loading

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: `clock.now`."""
    fake = SimpleNamespace(now=100.0, monotonic=lambda: fake.now)
    monkeypatch.setattr(bars, "time", fake)
    return fake


def made_bar(terminal=False):
    shown = io.StringIO()
    module = SimpleNamespace(after_arm=None, task=SimpleNamespace(name="pope", submission_only=True))
    module.cell = SimpleNamespace(arms=[])
    bar = bars.RunProgress(Console(file=shown, width=120, force_terminal=terminal), module)
    bar.expect(1000)
    return bar, shown


def test_the_remaining_time_is_known_from_the_first_answers_on_however_long_a_batch_takes():
    assert bars.remaining(0, 100, 5.0) is None
    assert bars.remaining(10, None, 5.0) is None
    assert bars.remaining(8, 800, 76.0) == timedelta(seconds=76 * 99)
    bar, shown = made_bar(terminal=True)
    bar.progress.tasks[0].start_time = time.monotonic() - 90  # one batch that took 90 s
    bar.after_arm(SimpleNamespace(id="a"), 10)
    with bar:
        bar.progress.refresh()
    assert "10/1000" in shown.getvalue()
    assert "2:28:3" in shown.getvalue()  # 99 more


def test_without_a_terminal_lines_at_long_intervals_take_the_place_of_the_bar(clock):
    bar, shown = made_bar()
    with bar:
        for _ in range(100):
            clock.now += 8
            bar.after_arm(SimpleNamespace(id="a"), 2)
        bar.progress.stop()
    lines = [line for line in shown.getvalue().splitlines() if " of 1000 answers in " in line]
    assert lines[0] == "4 of 1000 answers in 0:00:16, about 1:06:24 left"
    assert len(lines) == 3  # after 16 s, 320 s and 624 s


def test_a_short_run_prints_no_such_lines(clock):
    bar, shown = made_bar()
    with bar:
        clock.now += bars.FIRST_LINE - 1
        bar.after_arm(SimpleNamespace(id="a"), 1000)
    assert "answers in" not in shown.getvalue()


def test_refused_answers_count(clock):
    """The bar reaches its end although some images are refused."""
    from zoo_exp.evaluation.module import PrunedVLM
    from zoo_exp.evaluation.sample_batches import Batch, Sample

    counted = []
    arms = [SimpleNamespace(id="a"), SimpleNamespace(id="b")]
    refused = [(Sample(number, str(number), {}), "why") for number in range(3)]
    module = SimpleNamespace(
        _writer=SimpleNamespace(write=lambda *rows: None),
        cell=SimpleNamespace(arms=arms),
        done={"a": {"0", "1", "2"}, "b": {"0"}},
        recorded=0,
        recorded_in_cell=0,
        after_arm=lambda arm, answers: counted.append((arm.id, answers)),
        maker=SimpleNamespace(not_applicable=lambda arm, sample, reason, n: SimpleNamespace(arm_id=arm.id)),
    )
    PrunedVLM._refuse(module, Batch([], {}, refused))
    assert counted == [("b", 2)]
    assert module.recorded == 2


def test_the_first_line_comes_before_torch_is_imported(tmp_path):
    wrong = ["selector=zoo", "budget=16", "selector.options.fusion=unknown"]  # only its class can tell
    command = [sys.executable, "-m", "zoo_exp", "run", *wrong, f"out={tmp_path}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "loading PyTorch ...\n"
        assert cpu_seconds_of(child.pid) < 2  # about 0.4; torch takes longer than that
    finally:
        child.kill()
        child.communicate()


def test_only_the_first_process_announces_itself(monkeypatch):
    for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert consoles.is_first_process()
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "torch"})
    before = list(sys.meta_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    consoles.announce_torch()
    assert sys.meta_path == before
    monkeypatch.setattr(sys, "meta_path", list(before))
    monkeypatch.setenv("LOCAL_RANK", "0")
    consoles.announce_torch()
    assert len(sys.meta_path) == len(before) + 1


def test_bars_of_the_libraries_are_shown_if_asked_for_only(monkeypatch, tmp_path):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    for progress in (True, False):
        with loading._quiet(progress):
            assert logging.is_progress_bar_enabled() is progress
            assert are_progress_bars_disabled() is not progress
        assert logging.is_progress_bar_enabled()


def test_what_is_loaded_is_named_with_its_size(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"0")
    model = SimpleNamespace(name="mine", path=str(tmp_path), weights="pretrained")
    assert describe_model(model) == "mine (0.0 GiB in 1 file)"
    model.path = "org/name"
    assert describe_model(model) == "mine (org/name, from the hub or its cache)"

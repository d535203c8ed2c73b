"""Every stop by signal ends with 75: in the first seconds, in storms, with data workers, at one rank, in sweeps."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import paused
import pytest
import warm

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.evaluation import stop
from zoo_exp.files import naming
from zoo_exp.runs import cells

ROOT = Path(__file__).resolve().parents[2]
BASE = [
    "selector=[full,zoo]", "budget=16", "task=embedded_pope", "limit=20", "logger=none", "model.batch_size=1",
    "trainer=cpu",
]  # fmt: skip
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
RUN = [sys.executable, "-m", "zoo_exp", "run", *BASE]


def start(out, *more, popen=subprocess.Popen):
    """A run in a process group of its own; by default in a new interpreter."""
    return popen(
        [*RUN, f"out={out}", *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def ended(process, seconds=600):
    printed, _ = process.communicate(timeout=seconds)
    return process.returncode, printed


def until_handled(process):
    """Wait until the process handles SIGTERM, as it does from its first lines on."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    pytest.fail("no handler")


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["interpreter", "answers"])
def test_a_storm_from_the_first_second_to_the_last_gives_75(tmp_path, begin):
    """Signals go on until the process is gone: also after the run has taken its handlers off."""
    draw = random.Random(begin)
    if begin == "interpreter":
        process = start(tmp_path)
        until_handled(process)
    else:
        process = paused.start(tmp_path, [*BASE, f"out={tmp_path}"])
        paused.until_rows(compose([*BASE, f"out={tmp_path}"]).run_dir, 2, process)
    while process.poll() is None:
        process.send_signal(draw.choice(stop.SIGNALS))
        time.sleep(draw.uniform(0.01, 0.2))
    code, printed = ended(process)
    assert code == stop.EXIT_CODE, printed
    assert "Traceback" not in printed
    assert "rerun the same command" in printed


@pytest.mark.slow
def test_a_signal_to_the_whole_group_with_data_workers_gives_75(tmp_path):
    process = paused.start(tmp_path, [*BASE, f"out={tmp_path}", "data.workers=2"])
    paused.until_rows(compose([*BASE, f"out={tmp_path}"]).run_dir, 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    code, printed = ended(process)
    assert code == stop.EXIT_CODE, printed
    assert "Traceback" not in printed
    assert "stopped by SIGTERM" in printed


@pytest.mark.slow
@pytest.mark.parametrize("number", stop.SIGNALS)
def test_a_signal_to_the_second_rank_alone_stops_both_with_75(tmp_path, number):
    process = paused.start(tmp_path, [*BASE, f"out={tmp_path}", *DDP])
    experiment = compose([*BASE, f"out={tmp_path}"])
    paused.until_rows(experiment.run_dir, 4, process)
    second = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(second, number)
    code, printed = ended(process)
    assert code == stop.EXIT_CODE, printed
    assert "Traceback" not in printed
    (state,) = cells.states(experiment.run_dir, experiment.cells())
    assert (state.state, state.note[:10]) == ("stopped", "stopped by")


FAILS = """
import os, sys
from zoo_exp.cli import entry
from zoo_exp.errors import UnknownNameError
from zoo_exp.evaluation import attempt, module
if os.environ.get("LOCAL_RANK") == "1":
    def fails(*_):
        raise {error}
    {place} = fails
entry()
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["attempt._load", "module.PrunedVLM.test_step"])
@pytest.mark.parametrize(
    ("error", "said", "expected"),
    [
        (
            "UnknownNameError('image', 'x1', ['x2'])",
            "unknown image 'x1'. Did you mean 'x2'? Available: x2.",
            2,
        ),
        ("KeyError('image')", "unexpected KeyError: 'image'. This is a bug", 1),
    ],
)
def test_an_error_of_the_second_rank_arrives_in_one_line(tmp_path, place, error, said, expected):
    """Before the ranks have met, and between two batches."""
    script = tmp_path / "main.py"
    script.write_text(FAILS.format(place=place, error=error))
    out = f"out={tmp_path}/out"
    command = [sys.executable, str(script), "run", *BASE, out, *DDP]
    run = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == expected, run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, run.stderr
    assert errors[0].startswith(f"error: {said}")
    assert "Traceback" not in run.stderr
    experiment = compose([*BASE, out])
    (state,) = cells.states(experiment.run_dir, experiment.cells())
    assert state.state == "failed"
    assert state.note in errors[0]


@pytest.mark.slow
def test_a_signal_to_a_sweep_stops_its_point_and_the_rest_with_75(tmp_path):
    process = start(tmp_path, "seed=0,1", "limit=60", "-m")
    paused.until_rows(compose([*BASE, "limit=60", f"out={tmp_path}"]).run_dir, 2, process)
    process.send_signal(signal.SIGTERM)
    code, printed = ended(process)
    assert code == stop.EXIT_CODE, printed
    assert "stopped by SIGTERM" in printed
    assert "stopped after 1 of 2 points" in printed


def test_a_signal_before_anything_is_answered_is_75(tmp_path):
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        experiment = compose([*BASE, f"out={tmp_path}"])
        assert pipeline.run(experiment) == stop.EXIT_CODE
    (state,) = cells.states(experiment.run_dir, experiment.cells())
    assert state.state == "stopped"


def test_signals_at_the_end_of_the_interpreter_are_ignored():
    code = (
        "import atexit, os, signal; from zoo_exp.evaluation import stop\n"
        "atexit.register(lambda: [os.kill(os.getpid(), n) for n in stop.SIGNALS])\n"
        "stop.install(); stop.ignore(); raise SystemExit(75)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 75


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@pytest.mark.parametrize("number", FULL)
def test_a_full_disk_names_the_folder(tmp_path, number):
    with pytest.raises(OSError, match=f"cannot write {tmp_path}: {os.strerror(number)}"), naming(tmp_path):
        raise OSError(number, os.strerror(number))


def test_an_error_that_names_its_file_stays_as_it_is(tmp_path):
    with pytest.raises(PermissionError) as caught, naming(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "x")
    assert caught.value.filename == "x"


@pytest.mark.slow
@pytest.mark.parametrize("size", [500, 2000, 20_000])
def test_a_limit_on_file_sizes_is_one_line_with_the_folder(tmp_path, size):
    """RLIMIT_FSIZE makes every write fail as a full disk does."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "from zoo_exp.cli import entry; entry()"
    )
    command = [sys.executable, "-c", code, "run", *BASE, "limit=8", f"out={tmp_path}/out"]
    run = warm.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    (line,) = run.stderr.splitlines()
    assert run.returncode == 2
    assert f"{tmp_path}/out" in line
    assert "File too large" in line

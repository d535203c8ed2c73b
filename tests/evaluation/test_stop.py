"""The stop flag: signals set it instead of killing the process, and the job is requeued when appropriate."""

import os
import signal
import subprocess
import sys

import pytest

from zoo_exp.evaluation import stop


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that writes down what it is asked for; and no SLURM around."""
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    path = tmp_path / "scontrol"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "asked"


def test_handlers_are_restored_and_the_flag_is_cleared():
    before = [signal.getsignal(number) for number in stop.SIGNALS]
    with stop.listening():
        assert stop.requested() is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested() == signal.SIGTERM
    assert stop.requested() is None
    assert [signal.getsignal(number) for number in stop.SIGNALS] == before


def test_a_signal_between_install_and_the_run_counts():
    code = (
        "import os, signal; from zoo_exp.evaluation import stop; stop.install()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "with stop.listening(): print(stop.requested().name)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "SIGUSR1\n"


def test_the_module_imports_nothing_slow():
    code = "import sys; from zoo_exp.evaluation import stop; print('torch' in sys.modules, 'yaml' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"


def told(number, **environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with stop.listening():
            os.kill(os.getpid(), number)
            return stop.requeue(recorded=int(environment.get("recorded", 5)))


def test_the_time_limit_requeues_the_array_index(scontrol):
    said = told(signal.SIGUSR1, SLURM_JOB_ID="19", SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="2")
    assert "17_2 is requeued" in said
    assert scontrol.read_text() == "requeue 17_2\n"
    told(signal.SIGUSR1, SLURM_JOB_ID="20")
    assert scontrol.read_text().endswith("requeue 20\n")


def test_preempted_and_cancelled_jobs_are_not_requeued(scontrol):
    assert "same command" in told(signal.SIGTERM, SLURM_JOB_ID="20")
    assert "same command" in told(signal.SIGUSR1)  # no SLURM around
    assert not scontrol.exists()


def test_a_job_without_progress_is_not_requeued_forever(scontrol):
    last = {"SLURM_JOB_ID": "20", "SLURM_RESTART_COUNT": str(stop.IDLE_RESTARTS)}
    assert "time=" in told(signal.SIGUSR1, **last, recorded="0")
    assert not scontrol.exists()
    assert "is requeued" in told(signal.SIGUSR1, **last, recorded="1")


def test_a_failed_requeue_is_reported(scontrol, monkeypatch):
    (scontrol.parent / "scontrol").write_text("#!/bin/sh\necho no such job >&2; exit 1\n")
    assert "could not be requeued (no such job)" in told(signal.SIGUSR1, SLURM_JOB_ID="20")
    monkeypatch.setenv("PATH", str(scontrol.parent / "nothing"))
    assert "could not be requeued (scontrol: No such file" in told(signal.SIGUSR1, SLURM_JOB_ID="20")

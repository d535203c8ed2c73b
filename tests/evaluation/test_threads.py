"""How many CPU threads a process uses, and that they sleep while they wait."""

import os
import subprocess
import sys

import pytest
import torch

from zoo_exp.config.compose import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.threads import use_threads, wait_passively


@pytest.fixture(autouse=True)
def same_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_cores_are_divided_among_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [use_threads(None, processes) for processes in (1, 2, 3, 99)] == [8, 4, 2, 1]


def test_the_environment_is_kept_and_the_users_number_wins(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert use_threads(None, 1) == 1
    assert use_threads(3, 2) == 3


def test_waiting_is_passive_unless_chosen_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_command_line_sets_it_before_torch_is_imported():
    """The OpenMP library reads it once, when torch loads it."""
    code = (
        "import os, sys, runpy; sys.argv = ['zoo_exp', '--help']\n"
        "try: runpy.run_module('zoo_exp', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False PASSIVE"


def test_threads_are_an_option_that_changes_no_record():
    experiment = compose(["selector=[full]", "trainer.threads=2"])
    assert experiment.trainer.threads == 2
    plain = compose(["selector=[full]"])
    assert [cell.id for cell in experiment.cells()] == [cell.id for cell in plain.cells()]
    with pytest.raises(InvalidValueError, match=r"trainer\.threads"):
        compose(["selector=[full]", "trainer.threads=0"])


@pytest.mark.slow
def test_a_fork_has_its_own_thread_pool_before_weights_are_loaded_in_threads():
    """Torch 2.13 fails with "Invalid thread pool!" when two threads of a fork are the first to need the pool."""
    code = (
        "import os, torch, transformers\n"
        "torch.set_num_threads(4)  # makes the pool of this process\n"
        "torch.get_num_threads()  # after this, torch's own hook for forks does nothing\n"
        "from zoo_exp.models import loading\n"
        "def threads(*_, **__):\n"
        "    print(len(os.listdir('/proc/self/task')), flush=True)\n"
        "    os._exit(0)\n"
        "if os.fork() == 0:\n"
        "    before = len(os.listdir('/proc/self/task'))\n"
        "    print(before, flush=True)\n"
        "    transformers.LlavaForConditionalGeneration.from_pretrained = threads\n"
        "    loading.load_model('embedded')\n"
        "os.wait()\n"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout.split() == ["1", "4"], run.stderr

"""The tests do not depend on the signal dispositions of the process that started them."""

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
CHILD = "import signal; print([signal.getsignal(s) is signal.SIG_IGN for s in (2, 15, 10, 1)])"
SUITE = f"""
import importlib.util, subprocess, sys
sys.path.insert(0, {str(CONFTEST.parent)!r})
spec = importlib.util.spec_from_file_location("conftest", {str(CONFTEST)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True).stdout.strip())
"""


def dispositions(code):
    """Which of SIGINT, SIGTERM, SIGUSR1 and SIGHUP a process ignores whose parent ignores all of them."""
    ignoring = 'trap "" INT TERM USR1 HUP; exec "$0" -c "$1"'
    run = subprocess.run(
        ["bash", "-c", ignoring, sys.executable, code], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_an_ignored_signal_is_inherited():
    assert dispositions(CHILD) == "[True, True, True, True]"


def test_processes_started_by_tests_handle_signals_even_if_the_suite_runs_in_the_background():
    assert dispositions(SUITE) == "[False, False, False, False]"

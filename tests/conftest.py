"""Common fixtures."""

import os
import signal
import sys

# Before torch is imported: tests, and the processes that they start, must not spin where other processes run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# pytest-xdist tells its workers the width of its terminal: no test depends on one that it does not set.
os.environ.pop("COLUMNS", None)

import pytest
from made_up_run import make_run, make_whole_run

__all__ = ["make_run", "make_whole_run"]  # fixtures: the folder of a made-up run

# A shell that starts the suite in the background ignores SIGINT for it, and an ignored signal stays ignored in every
# process that the tests start. Tests about Ctrl-C and SLURM's signals need the dispositions of a foreground process.
for _signal, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGUSR1, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker begins with them when the others have ended."""
    marked = {
        mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in ("slurm", "slow")
    }
    items.sort(key=lambda item: next((n for n, mark in enumerate(marked) if item.path in marked[mark]), 2))


@pytest.fixture(autouse=True)
def rank_zero():
    """Lightning keeps the rank of the process in a global; a test that plays another rank must not leave it behind."""
    yield
    for name in ("lightning_utilities.core.rank_zero", "lightning.fabric.utilities.rank_zero"):
        module = sys.modules.get(name)
        if module is not None:
            module.rank_zero_only.rank = 0

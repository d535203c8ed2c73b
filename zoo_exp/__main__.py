"""`python -m zoo_exp`."""

import sys

from zoo_exp.evaluation import stop
from zoo_exp.threads import wait_passively

if __name__ == "__main__":
    wait_passively()
    if sys.argv[1:2] == ["run"]:
        stop.install()  # before anything else is imported: without a handler, a signal to stop kills the process
    from zoo_exp.cli import entry

    entry()

"""`python -m zoo_exp`."""

import sys

from zoo_exp.evaluation import stop

if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        stop.install()  # before anything else is imported: without a handler, a signal to stop kills the process
    from zoo_exp.cli import entry

    entry()

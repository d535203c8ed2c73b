"""`python -m zoo_exp`."""

from zoo_exp.cli import entry

if __name__ == "__main__":
    entry()

"""The folder of a made-up run."""

from made_up_run import make_run, make_whole_run

__all__ = ["make_run", "make_whole_run"]

"""A clock for limits in tests: CPU seconds, which do not grow while other processes use the machine."""

import os


def cpu_seconds():
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cpu_seconds_of(process):
    """CPU seconds of a running process, without its children.

    Args:
        process: its number.
    """
    with open(f"/proc/{process}/stat") as file:
        values = file.read().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

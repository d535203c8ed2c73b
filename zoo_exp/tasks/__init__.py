"""The nine benchmarks: what they ask, how an answer scores, what the scores add up to (spec: benchmarks)."""

from zoo_exp.tasks.base import DataSource, GenerationSettings, Task
from zoo_exp.tasks.registry import available, describe, get

__all__ = ["DataSource", "GenerationSettings", "Task", "available", "describe", "get"]

"""Accuracy of the questions that share a value of a score part, such as a subject."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_exp.tasks.base import mean


def accuracy_by(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """Accuracy (0 to 1) and number of questions of every value of a score part; rows without it are left out."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(name) is not None:
            groups[str(row[name])].append(row["score"])
    return {value: {"accuracy": mean(v), "n": float(len(v))} for value, v in sorted(groups.items())}

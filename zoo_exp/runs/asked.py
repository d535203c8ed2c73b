"""Questions of a run by their ids."""

from collections.abc import Sequence
from pathlib import Path

from zoo_exp.errors import UnknownNameError
from zoo_exp.runs import reading


def find(run: Path, samples: Sequence[str], task: str | None = None) -> dict[str, list[str]]:
    """Task -> those of some questions that it has.

    Raises:
        UnknownNameError: a question, or a task, that the run has no record of.
    """
    ids: dict[str, set[str]] = {}
    for row in reading.records(run, damaged=[]):
        ids.setdefault(row["task"], set()).add(row["sample_id"])
    if task is not None and task not in ids:
        raise UnknownNameError("task of this run", task, ids)
    chosen = {name: own for name, own in ids.items() if task in (None, name)}
    for sample in samples:
        if not any(sample in own for own in chosen.values()):
            close = sorted(
                set().union(*chosen.values()), key=lambda known: (abs(len(known) - len(sample)), known)
            )
            raise UnknownNameError("question", sample, [], f"Ids look like {', '.join(close[:3])}.")
    found = {name: [sample for sample in samples if sample in own] for name, own in chosen.items()}
    return {name: own for name, own in found.items() if own}

"""Times per answer that earlier runs of the same model measured on the same device, from their run folders."""

import json
from pathlib import Path
from statistics import median

from zoo_exp.config import identity
from zoo_exp.config.schema import ModelConfig
from zoo_exp.errors import ZooExpError
from zoo_exp.runs import folder, manifest, reading
from zoo_exp.runs.records import Timing

RUNS = 12
"""Run folders that are looked at, the newest first."""
LARGEST = 50 * 2**20
"""Bytes; a larger file of timings is passed over, since an estimate must not take long."""


def seconds(out: Path, model: ModelConfig, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(task, arm id) -> seconds per answer, and seconds of the vision pass per question: medians over batches.

    Args:
        out: parent of the run folders.
        model: configuration of the model.
        seed: seed of the experiment.
    """
    here = manifest.device()
    ids: dict[str, str] = {}
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    manifests = sorted(out.glob("*/*/experiment.json"), key=_modified, reverse=True)
    for path in manifests[:RUNS]:
        run = path.parent
        merged = folder.merged(run, folder.TIMINGS)
        if _device(path) != here or (merged.is_file() and merged.stat().st_size > LARGEST):
            continue
        for row in _timings(run):
            try:
                wanted = ids.setdefault(row.task, identity.cell_id(model, row.task, seed))
            except ZooExpError:  # a task of the user's own that this process does not know
                ids[row.task] = wanted = ""
            if row.arms_in_call > 1:  # a share of a call of several arms
                continue
            if row.cell == wanted and row.cell and row.spent_ms is not None:
                one = row.spent_ms / row.batch_size / 1e3, (row.vision_ms or 0.0) / row.batch_size / 1e3
                spent.setdefault((row.task, row.arm_id), []).append(one)
    return {
        key: (median(one for one, _ in rows), median(vision for _, vision in rows))
        for key, rows in spent.items()
    }


def _timings(run: Path) -> list[Timing]:
    """The timings of a run; damaged rows of other runs are not reported here."""
    damaged: list[str] = []
    paths = [folder.merged(run, folder.TIMINGS), *folder.journals(run, folder.TIMINGS)]
    try:
        return [row for path in paths for row in reading.optional(path, Timing.from_row, damaged)]
    except ZooExpError:  # written by a newer version
        return []


def _device(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("device"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

"""Split questions into easy and difficult ones with the downsampling baseline `resize`.

A question that is answered correctly with a downsampled image of the same token count does not need token selection:
it is easy at this budget. The benefit of a selector shows on the difficult ones (VTC-Bench, arXiv 2510.07143).
"""

from collections.abc import Sequence, Set
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import Statistic, percentile_interval, retained
from zoo_exp.statistics.comparisons import ArmScores, Contest, best_rows
from zoo_exp.statistics.estimates import seed_mixing
from zoo_exp.statistics.intervals import Floats

JUDGE = "resize"
PARTS = ("easy", "difficult")
RIGHT = 0.5
"""Minimum score of a correct answer."""
COLUMNS = ("budget", "part", "arm", "n", "share", "full", "score", "retained", "low", "high", "best")


def split(
    rows: Sequence[ArmRow],
    tasks: Sequence[TaskSamples],
    reference: int | None,
    above: Set[int],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Retained score of each arm on the easy and on the difficult questions of its budget.

    Scores are summed over the questions of all tasks, so that every question has the same weight. Intervals are paired
    (all arms use the same draws of images). `resize` itself has no row, because it is correct on easy questions and
    wrong on difficult ones by definition. `best` marks rows that are significantly better than every other arm.

    Args:
        rows: the R rows of the table.
        tasks: aligned questions of each task.
        reference: number of the row that keeps every token, or None.
        above: rows that kept more tokens than their budget allows.
        draws: bootstrap draws.
        seed: seed of the draws.

    Returns:
        Rows with `COLUMNS`; empty without a `resize` arm or without a reference.
    """
    lines: list[list[object]] = []
    for judge in (row for row in rows if row.selector == JUDGE and row.budget is not None):
        if reference is None or any(not {*judge.members} <= {*task.arm_ids} for task in tasks):
            continue
        numbers = [
            reference,
            *(i for i, row in enumerate(rows) if row.budget == judge.budget and row.selector != JUDGE),
        ]
        shown = [rows[i] for i in numbers]
        left_out = {place for place, i in enumerate(numbers) if i in above}
        easy = [_right(task, judge) for task in tasks]
        total = sum(len(mask) for mask in easy)
        for part, masks in zip(PARTS, (easy, [~mask for mask in easy]), strict=True):
            count = int(sum(mask.sum() for mask in masks))
            if not count:
                continue
            value, drawn = _sums(shown, tasks, masks, draws, seed)
            contest = Contest(
                retained(value, 0),
                retained(drawn, 0),
                images=len(
                    {key for task, mask in zip(tasks, masks, strict=True) for key in _keys(task, mask)}
                ),
                scores=[
                    ArmScores(task.arm_ids, partial(_chosen, task, mask))
                    for task, mask in zip(tasks, masks, strict=True)
                ],
            )
            best = best_rows(shown, contest, left_out)
            for column, row in enumerate(shown):
                if column == 0:
                    continue
                interval = percentile_interval(contest.resampled[:, column], contest.images)
                line = [judge.budget, part, row.label, count, count / total, value[0] / count]
                line += [
                    value[column] / count,
                    contest.value[column],
                    interval.low,
                    interval.high,
                    column in best,
                ]
                lines.append(line)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _right(task: TaskSamples, judge: ArmRow) -> NDArray[np.bool_]:
    """Whether the judge is correct on each question [n]; on average if it has several seeds."""
    return np.asarray(task.values("score", task.columns(judge.members)).mean(1) >= RIGHT)


def _chosen(task: TaskSamples, mask: NDArray[np.bool_], arm: int) -> Floats:
    """Scores of the selected questions under one arm."""
    return np.asarray(task.values("score", [arm])[mask, 0])


def _keys(task: TaskSamples, mask: NDArray[np.bool_]) -> list[str]:
    """Image keys of the selected questions."""
    keys = task.keys
    return [keys[image] for image in np.unique(task.clusters[mask])]


def _sums(
    rows: Sequence[ArmRow],
    tasks: Sequence[TaskSamples],
    masks: Sequence[NDArray[np.bool_]],
    draws: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Summed scores of the selected questions [R], and under each draw [B, R]; nan if seeds are missing."""
    value, resampled = np.zeros(len(rows)), np.zeros((draws, len(rows)))
    for task, mask in zip(tasks, masks, strict=True):
        totals = np.zeros((task.images, 1, len(rows)))
        np.add.at(totals[:, 0], task.clusters[mask], task.values("score")[mask] @ seed_mixing(task, rows))
        value += totals.sum((0, 1))
        resampled += Statistic(("score",), totals, task.keys, dict).draw(draws, seed)[:, 0]
    return value, resampled

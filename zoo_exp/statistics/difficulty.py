"""Easy and difficult questions, told apart by the image that is simply made smaller.

A question that a downsized image with as many tokens answers right needs no selection of tokens: it is easy at this
budget. What a selector is for shows on the others. Idea: VTC-Bench (arXiv 2510.07143).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.statistics.alignment import TaskSamples
from zoo_exp.statistics.bootstrap import Floats, draw, percentile_interval
from zoo_exp.statistics.comparisons import above_budget, best_rows
from zoo_exp.statistics.rows import ArmRow

JUDGE = "resize"
PARTS = ("easy", "difficult")
RIGHT = 0.5
"""A score from here counts as right."""
COLUMNS = ("budget", "part", "arm", "n", "share", "full", "score", "retained", "low", "high", "best")


@dataclass(frozen=True)
class SumStatistic:
    """Sums over the drawn images.

    Attributes:
        totals: per image and column [G, A].
    """

    totals: Floats

    @property
    def value(self) -> Floats:
        """The sums over the images as they are [A]."""
        return np.asarray(self.totals.sum(0))

    @property
    def groups(self) -> int:
        """G, the number of images."""
        return len(self.totals)

    def resampled(self, weights: Floats) -> Floats:
        """[B, G] -> [B, A]."""
        return np.asarray(weights @ self.totals)


def split(
    rows: Sequence[ArmRow], tasks: Sequence[TaskSamples], reference: int | None, draws: int, seed: int
) -> pd.DataFrame:
    """What each arm retains of the full model's score on the easy and on the difficult questions of its budget.

    Scores are summed over the questions of all tasks, so that a task with two difficult questions weighs as two;
    intervals are paired (all arms under the same draws of images). `resize` itself has no row: it is right on what is
    easy and wrong on what is difficult by definition. `best` marks what is significantly better than every other arm.

    Args:
        rows: the R rows of the table.
        tasks: aligned questions of each task.
        reference: number of the row that keeps every token, or None.
        draws: bootstrap draws.
        seed: seed of the draws.

    Returns:
        Rows with `COLUMNS`; empty without a `resize` arm or without a reference.
    """
    lines: list[list[object]] = []
    for judge in (row for row in rows if row.selector == JUDGE and row.budget is not None):
        if reference is None or any(not {*judge.members} <= {*task.arm_ids} for task in tasks):
            continue
        mine = [row for row in rows if row.budget == judge.budget and row.selector != JUDGE]
        shown = [rows[reference], *mine]
        easy = [_right(task, judge) for task in tasks]
        total = sum(len(mask) for mask in easy)
        for part, masks in zip(PARTS, (easy, [~mask for mask in easy]), strict=True):
            count = int(sum(mask.sum() for mask in masks))
            if not count:
                continue
            value, drawn = _sums(shown, tasks, masks, draws, seed)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = 100 * value / value[0]
                resampled = np.where(drawn[:, [0]] > 0, 100 * drawn / drawn[:, [0]], np.nan)
            best = best_rows(shown, share, resampled, above_budget(shown, tasks))
            for column, row in enumerate(shown):
                if column == 0:
                    continue
                interval = percentile_interval(resampled[:, column])
                line = [judge.budget, part, row.label, count, count / total, value[0] / count]
                line += [value[column] / count, share[column], interval.low, interval.high, column in best]
                lines.append(line)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _right(task: TaskSamples, judge: ArmRow) -> NDArray[np.bool_]:
    """Whether the judge is right, per question [n]; with several seeds: in the mean."""
    columns = [task.arm_ids.index(member) for member in judge.members]
    return np.asarray(task.scores[:, columns].mean(1) >= RIGHT)


def _sums(
    rows: Sequence[ArmRow],
    tasks: Sequence[TaskSamples],
    masks: Sequence[NDArray[np.bool_]],
    draws: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Summed scores of some questions: as they are [R] and under each draw [B, R]; nan where seeds are missing."""
    value, resampled = np.zeros(len(rows)), np.zeros((draws, len(rows)))
    for task, mask in zip(tasks, masks, strict=True):
        mixing = np.zeros((len(task.arm_ids), len(rows)))
        for column, row in enumerate(rows):
            present = [task.arm_ids.index(member) for member in row.members if member in task.arm_ids]
            whole = len(present) == len(row.members)
            mixing[present or [0], column] = 1 / len(present) if whole else np.nan
        totals = np.zeros((task.images, len(rows)))
        np.add.at(totals, task.clusters[mask], task.scores[mask] @ mixing)
        statistic = SumStatistic(totals)
        value += statistic.value
        resampled += draw(statistic, task.image_ids, draws, seed)
    return value, resampled

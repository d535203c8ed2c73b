"""Two arms on the same questions: difference, interval, exact test, agreement, and the questions that changed.

The two sides may be arms of one run, or arms of two runs: other models, other points of a sweep. Only questions that
both have answered, with the same text and reference answer, are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.runs.joint import Joint
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.alignment import align
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import DRAWS, retained
from zoo_exp.statistics.changes import Both, Changes
from zoo_exp.statistics.comparisons import Contest, task_contest
from zoo_exp.statistics.estimates import TaskEstimate, estimate, fewest_images, mean_over_tasks
from zoo_exp.statistics.intervals import CONFIDENCE, Floats, minimum_detectable_difference
from zoo_exp.tasks.base import Task

MEAN, RETAINED = "average", "average retained"
"""Names of the two average lines."""
COLUMNS = (
    *("task", "metric", "unit", "n", "images", "first", "second", "difference", "low", "high", "significant"),
    *("detectable", "first_higher", "second_higher", "p_value", "same_score", "same_response"),
)
_SIDES = ("first", "second")


@dataclass(frozen=True)
class Side:
    """One arm of a run.

    Attributes:
        label: what tables call it.
        row: the arm.
        answers: records of its members, and of the members of `full`, with hashes of their texts.
        full: the run's arm that keeps every token, if there is one.
    """

    label: str
    row: ArmRow
    answers: Answers
    full: ArmRow | None = None


@dataclass(frozen=True)
class Paired:
    """A comparison of two arms.

    Attributes:
        first: label of the first arm.
        second: label of the second arm.
        frame: one row per task, and with several tasks one with the task `average` (mean score) and, where both runs
            have the arm `full`, one with `average retained` (of the metric of the own full model). Columns:
            metric, unit: the main metric, and `%` or `points`.
            n, images: questions that were compared, and their different images.
            first, second, difference: values, and first minus second; low, high: paired 95 % interval.
            significant: the interval excludes 0 and p is below 0.05.
            detectable: smallest true difference that is found with 80 % power.
            first_higher, second_higher, p_value: exact sign test over the metric's units.
            same_score, same_response: share of questions with equal scores and equal responses, 0 to 1.
        changes: the questions with different scores, see `changed`.
        notes: what was left out, and why.
        draws: bootstrap draws.
    """

    first: str
    second: str
    frame: pd.DataFrame
    changes: Changes
    notes: list[str]
    draws: int

    @cached_property
    def changed(self) -> pd.DataFrame:
        """The questions with different scores, the largest difference first, then in random (seeded) order.

        Columns: see `changes.COLUMNS`; scores are means over the seeds of an arm, responses those of its first seed.
        """
        return self.changes.frame()


def compare_arms(
    first: Side, second: Side, tasks: Sequence[Task], draws: int = DRAWS, seed: int = 0
) -> Paired:
    """Compare two arms on the questions that both have answered.

    Args:
        first: one arm.
        second: the other; differences are first minus second.
        tasks: in the order of the lines.
        draws: bootstrap draws.
        seed: seed of the draws, and of the order of the changed questions.

    Raises:
        InvalidValueError: no task has a question that both have answered.
        ZooExpError: no metric can be computed.
    """
    notes: list[str] = []
    found: list[_Compared] = []
    problems: list[ZooExpError] = []
    for task in tasks:
        joint = _joined(first, second, task, notes)
        if joint is None:
            continue
        try:
            found.append(_compared(first, second, joint, task, draws, seed, notes))
        except ZooExpError as error:
            problems.append(error)
            notes.append(f"{task.name}: left out, because its metric cannot be computed: {error}")
    if not found and problems:
        raise problems[0]
    if not found:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise InvalidValueError(
            f"{first.label} and {second.label} share no questions that can be compared{why}"
        )
    lines = [_task_line(one) for one in found]
    lines += _average_lines(found) if len(found) > 1 else []
    return Paired(
        first=first.label,
        second=second.label,
        frame=pd.DataFrame(lines, columns=list(COLUMNS)),
        changes=Changes.of([one.both for one in found], seed),
        notes=notes,
        draws=draws,
    )


@dataclass(frozen=True)
class _Compared:
    """One task.

    Attributes:
        estimate: its rows are the two arms and, where both runs have it, the two full models.
        rows: the two arms; their members have the side in front, as both sides may have arms with the same id.
        both: the records of the two arms, by seed, in the order of the estimate's questions.
    """

    estimate: TaskEstimate
    rows: tuple[ArmRow, ArmRow]
    both: Both

    def agreement(self) -> tuple[float, float]:
        """Share of equal scores and of equal responses, over all pairs of seeds."""
        shares = []
        for column in ("score", "response"):
            one, other = (
                [own.values(column) for own in side] for side in (self.both.first, self.both.second)
            )
            equal = sum(int((a == b).sum()) for a in one for b in other)
            shares.append(equal / (len(one) * len(other) * len(one[0])))
        return shares[0], shares[1]


def _on(side: str, row: ArmRow) -> ArmRow:
    return replace(row, members=tuple(f"{side} {member}" for member in row.members))


def _joined(first: Side, second: Side, task: Task, notes: list[str]) -> Answers | None:
    """Records of both sides on the questions that they share, with arm ids as in `_on`; None if there are none."""
    sides = first, second
    if task.submission_only:
        notes.append(f"{task.name}: left out, because only the benchmark's server can score its responses")
        return None
    tasks = [side.answers.tasks.get(task.name) for side in sides]
    own = [
        [] if part is None else [part.arms[arm] for arm in side.row.members if arm in part.arms]
        for part, side in zip(tasks, sides, strict=True)
    ]
    lacking = [side.label for part, side in zip(own, sides, strict=True) if not any(map(len, part))]
    if lacking or tasks[0] is None or tasks[1] is None:
        notes += (
            [f"{task.name}: left out, because {lacking[0]} has no records of it"] if len(lacking) == 1 else []
        )
        return None
    joint = Joint(tasks[0], tasks[1])
    questions = [joint.questions(side, part) for side, part in enumerate(own)]
    has = [part.recorded for part in questions]
    shared = has[0] & has[1]
    differs = np.zeros(len(shared), bool)
    for column in ("question", "reference"):
        texts = [part.texts[column] for part in questions]
        differs |= (texts[0] != texts[1]) & (texts[0] != 0) & (texts[1] != 0)
    differs &= shared
    refused = shared & (questions[0].refused | questions[1].refused)
    kept = shared & ~differs & ~refused
    for side, other, mine in zip(sides, reversed(sides), has, strict=True):
        if mine.sum() > shared.sum():
            notes.append(
                f"{task.name}: {mine.sum() - shared.sum()} of {mine.sum()} questions of {side.label} are left out, "
                f"because {other.label} has not answered them"
            )
    if differs.any():
        notes.append(
            f"{task.name}: {differs.sum()} questions are left out, because they have the same id in both runs, but "
            "another text or reference answer"
        )
    if refused.any():
        notes.append(f"{task.name}: {refused.sum()} questions are not applicable to both arms")
    if not kept.any():
        return None
    whole = all(
        side.full is not None
        and all(joint.count(number, member, kept) == kept.sum() for member in side.full.members)
        for number, side in enumerate(sides)
    )
    # A full model that lacks some of these questions must not leave them out.
    rows = [[side.row, *([side.full] if whole and side.full is not None else [])] for side in sides]
    members = [[member for row in part for member in row.members] for part in rows]
    return joint.answers(
        members, kept, [[f"{side} {arm}" for arm in part] for side, part in zip(_SIDES, members, strict=True)]
    )


def _compared(
    first: Side, second: Side, joint: Answers, task: Task, draws: int, seed: int, notes: list[str]
) -> _Compared:
    sides = first, second
    rows = [_on(name, side.row) for name, side in zip(_SIDES, sides, strict=True)]
    fulls = [_on(name, side.full) for name, side in zip(_SIDES, sides, strict=True) if side.full is not None]
    begun = set(joint.tasks[task.name].arms)
    with_full = len(fulls) == 2 and all(begun >= set(full.members) for full in fulls)
    shown = [*rows, *(fulls if with_full else [])]
    ids = list(dict.fromkeys(member for row in shown for member in row.members))
    samples = align(joint, task, ids)
    if samples is None or not {*rows[0].members, *rows[1].members} <= set(samples.arm_ids):
        raise InvalidValueError("no question has a response of both arms under every seed")
    if samples.dropped:
        notes.append(f"{task.name}: {samples.dropped} questions are left out, because a response is missing")
    one, other = ([samples.rows[column] for column in samples.columns(row.members)] for row in rows)
    return _Compared(
        estimate(samples, shown, None, draws, seed), (rows[0], rows[1]), Both(task.name, one, other)
    )


def _task_line(one: _Compared) -> dict[str, Any]:
    done, scale = one.estimate, one.estimate.task.scale
    named = {"task": done.task.name, "metric": done.task.main_metric}
    counts = {"n": len(done.samples.sample_ids), "images": done.samples.images}
    unit = "%" if scale.unit in ("fraction", "percent") else scale.unit
    agreement = dict(zip(("same_score", "same_response"), one.agreement(), strict=True))
    return named | counts | {"unit": unit} | _numbers(one.rows, task_contest(done), scale.factor) | agreement


def _average_lines(found: Sequence[_Compared]) -> list[dict[str, Any]]:
    """The mean score over tasks, and the retained average where every task has both full models."""
    estimates, rows = [one.estimate for one in found], found[0].rows
    shared: dict[str, Any] = {
        "unit": "%",
        "n": sum(len(done.samples.sample_ids) for done in estimates),
        "images": sum(done.samples.images for done in estimates),
    }
    agreements = np.mean([one.agreement() for one in found], axis=0)
    shared |= dict(zip(("same_score", "same_response"), map(float, agreements), strict=True))
    images = fewest_images(estimates)
    units = [task_contest(done).scores[0] for done in estimates]
    mean = Contest(
        mean_over_tasks([done.score[:2] for done in estimates]),
        mean_over_tasks([done.score_resampled[:, :2] for done in estimates]),
        images,
        units,
    )
    lines = [{"task": MEAN, "metric": "mean score"} | shared | _numbers(rows, mean, 100.0)]
    if all(len(done.value) == 4 for done in estimates):
        contest = Contest(
            mean_over_tasks([_retained(done.value) for done in estimates]),
            mean_over_tasks([_retained(done.resampled) for done in estimates]),
            images,
            units,
        )
        lines.append({"task": RETAINED, "metric": "retained"} | shared | _numbers(rows, contest, 1.0))
    return lines


def _retained(values: Floats) -> Floats:
    """What both arms retain of their own full model's metric: [..., 4] -> [..., 2]."""
    return np.stack([retained(values[..., [arm, 2 + arm]], 1)[..., 0] for arm in (0, 1)], axis=-1)


def _numbers(rows: tuple[ArmRow, ArmRow], contest: Contest, factor: float) -> dict[str, Any]:
    test, interval = contest.test(*rows), contest.interval(0, 1).scaled(factor)
    spread = contest.resampled[:, 0] - contest.resampled[:, 1]
    error = factor * float(np.nanstd(spread, ddof=1)) if not np.isnan(spread).all() else math.nan
    p_value = math.nan if test is None else test.p_value
    return {
        "first": factor * float(contest.value[0]),
        "second": factor * float(contest.value[1]),
        "difference": factor * float(contest.value[0] - contest.value[1]),
        "low": interval.low,
        "high": interval.high,
        "significant": interval.excludes(0.0) and p_value < 1 - CONFIDENCE,
        "detectable": minimum_detectable_difference(error),
        "first_higher": None if test is None else test.first,
        "second_higher": None if test is None else test.second,
        "p_value": p_value,
    }

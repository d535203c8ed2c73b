"""Two arms on the same questions: difference, interval, exact test, agreement, and the questions that changed.

The two sides may be arms of one run, or arms of two runs: other models, other points of a sweep. Only questions that
both have answered, with the same text and reference answer, are compared.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.runs.records import NOT_APPLICABLE
from zoo_exp.statistics.alignment import align
from zoo_exp.statistics.arm_rows import ArmRow
from zoo_exp.statistics.bootstrap import DRAWS, retained
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
CHANGED = (
    *("task", "sample_id", "question", "reference", "difference"),
    *("first_score", "first_response", "second_score", "second_response"),
)
_SIDES = ("first", "second")


@dataclass(frozen=True)
class Side:
    """One arm of a run.

    Attributes:
        label: what tables call it.
        row: the arm.
        records: records of its members, and of the members of `full`.
        full: the run's arm that keeps every token, if there is one.
    """

    label: str
    row: ArmRow
    records: pd.DataFrame
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
        changed: the questions with different scores, the largest difference first, then in random (seeded) order.
            Columns: see `CHANGED`; scores are means over the seeds of an arm, responses those of its first seed.
        notes: what was left out, and why.
        draws: bootstrap draws.
    """

    first: str
    second: str
    frame: pd.DataFrame
    changed: pd.DataFrame
    notes: list[str]
    draws: int


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
        changed=_changed(found, seed),
        notes=notes,
        draws=draws,
    )


@dataclass(frozen=True)
class _Compared:
    """One task.

    Attributes:
        estimate: its rows are the two arms and, where both runs have it, the two full models.
        rows: the two arms; their members have the side in front, as both sides may have arms with the same id.
        records: one per question, by arm id, in the order of the estimate's questions.
    """

    estimate: TaskEstimate
    rows: tuple[ArmRow, ArmRow]
    records: dict[str, pd.DataFrame]

    def table(self, side: int, column: str) -> NDArray[Any]:
        """Values of a column under every seed of a side [n, seeds]."""
        return np.stack([self.records[arm][column].to_numpy() for arm in self.rows[side].members], axis=1)

    def agreement(self) -> tuple[float, float]:
        """Share of equal scores and of equal responses, over all pairs of seeds."""
        shares = []
        for column in ("score", "response"):
            one, other = self.table(0, column), self.table(1, column)
            shares.append(float(np.mean(one[:, :, None] == other[:, None, :])))
        return shares[0], shares[1]


def _on(side: str, row: ArmRow) -> ArmRow:
    return replace(row, members=tuple(f"{side} {member}" for member in row.members))


def _joined(first: Side, second: Side, task: Task, notes: list[str]) -> pd.DataFrame | None:
    """Records of both sides on the questions that they share, with arm ids as in `_on`; None if there are none."""
    sides = first, second
    if task.submission_only:
        notes.append(f"{task.name}: left out, because only the benchmark's server can score its responses")
        return None
    mine = [side.records[side.records["task"] == task.name] for side in sides]
    own = [part[part["arm_id"].isin(side.row.members)] for part, side in zip(mine, sides, strict=True)]
    lacking = [side.label for part, side in zip(own, sides, strict=True) if part.empty]
    if lacking:
        notes += (
            [f"{task.name}: left out, because {lacking[0]} has no records of it"] if len(lacking) == 1 else []
        )
        return None
    questions = [part.drop_duplicates("sample_id").set_index("sample_id") for part in own]
    shared = questions[0].index.intersection(questions[1].index)
    differs = np.zeros(len(shared), bool)
    for column in ("question", "reference"):
        one, other = (part.loc[shared, column].map(_plain).to_numpy(str) for part in questions)
        differs |= (one != other) & (one != "") & (other != "")
    refused = {name for part in own for name in part.loc[part[NOT_APPLICABLE].notna(), "sample_id"]}
    kept = set(shared[~differs]) - refused
    for side, other, part in zip(sides, reversed(sides), questions, strict=True):
        if len(part) > len(shared):
            notes.append(
                f"{task.name}: {len(part) - len(shared)} of {len(part)} questions of {side.label} are left out, "
                f"because {other.label} has not answered them"
            )
    if differs.any():
        notes.append(
            f"{task.name}: {differs.sum()} questions are left out, because they have the same id in both runs, but "
            "another text or reference answer"
        )
    if refused & set(shared):
        notes.append(f"{task.name}: {len(refused & set(shared))} questions are not applicable to both arms")
    if not kept:
        return None
    mine = [part[part["sample_id"].isin(kept)] for part in mine]
    whole = all(
        side.full is not None
        and all((part["arm_id"] == member).sum() == len(kept) for member in side.full.members)
        for part, side in zip(mine, sides, strict=True)
    )
    if not whole:  # a full model that lacks some of these questions must not leave them out
        mine = [part[part["arm_id"].isin(side.row.members)] for part, side in zip(mine, sides, strict=True)]
    return pd.concat(
        [part.assign(arm_id=f"{name} " + part["arm_id"]) for name, part in zip(_SIDES, mine, strict=True)]
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)


def _compared(
    first: Side, second: Side, joint: pd.DataFrame, task: Task, draws: int, seed: int, notes: list[str]
) -> _Compared:
    sides = first, second
    rows = [_on(name, side.row) for name, side in zip(_SIDES, sides, strict=True)]
    fulls = [_on(name, side.full) for name, side in zip(_SIDES, sides, strict=True) if side.full is not None]
    begun = set(joint["arm_id"])
    with_full = len(fulls) == 2 and all(begun >= set(full.members) for full in fulls)
    shown = [*rows, *(fulls if with_full else [])]
    ids = list(dict.fromkeys(member for row in shown for member in row.members))
    samples = align(joint, task, ids)
    if samples is None or not {*rows[0].members, *rows[1].members} <= set(samples.arm_ids):
        raise InvalidValueError("no question has a response of both arms under every seed")
    if samples.dropped:
        notes.append(f"{task.name}: {samples.dropped} questions are left out, because a response is missing")
    by_arm = {str(arm): part.set_index("sample_id") for arm, part in joint.groupby("arm_id", sort=False)}
    return _Compared(
        estimate(samples, shown, None, draws, seed),
        (rows[0], rows[1]),
        {arm: by_arm[arm].loc[samples.sample_ids].reset_index() for arm in ids},
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


def _changed(found: Sequence[_Compared], seed: int) -> pd.DataFrame:
    """Questions with different scores: the largest difference first, then in an order that the seed draws."""
    parts = []
    for one in found:
        scores = [one.table(side, "score").astype(float).mean(axis=1) for side in (0, 1)]
        places = np.flatnonzero(scores[0] != scores[1])
        said = [one.records[row.members[0]].iloc[places].reset_index(drop=True) for row in one.rows]
        part = said[0][["task", "sample_id", "question", "reference"]].copy()
        part["difference"] = (scores[0] - scores[1])[places]
        for name, own, answers in zip(_SIDES, scores, said, strict=True):
            part[f"{name}_score"], part[f"{name}_response"] = own[places], answers["response"]
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    drawn = [_drawn(seed, *key) for key in zip(table["task"], table["sample_id"], strict=True)]
    size = table["difference"].abs().tolist()
    order = sorted(range(len(table)), key=lambda place: (-size[place], drawn[place]))
    return table.iloc[order].reset_index(drop=True)[list(CHANGED)]


def _drawn(seed: int, task: str, sample_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{task}\0{sample_id}".encode(errors="replace"), digest_size=8).digest()

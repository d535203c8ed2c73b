"""Align the records of one task: the same questions under every arm, for paired comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zoo_exp.statistics.intervals import Floats
from zoo_exp.tasks.base import Task

COSTS = ("flops_tflop", "prefill_tflop", "selector_tflop")


@dataclass(frozen=True)
class TaskSamples:
    """Questions of one task with responses under all A arms of `arm_ids`.

    Attributes:
        task: the task.
        arm_ids: arms, one per seed of a stochastic selector [A].
        sample_ids: questions with a response under every arm, sorted [n].
        image_ids: their images, sorted [G].
        clusters: image number of each question, 0 to G - 1 [n].
        scores: per-question scores in [0, 1] [n, A].
        kept: visual tokens that entered the language model; nan for questions without an image [n, A].
        layers: for layer selectors, mean over decoder layers of the visual tokens at their input; nan for input
            selectors and for questions without an image [n, A].
        costs: name of a FLOPs column -> TFLOP per question, nan if not recorded [n, A].
        n_visual: visual tokens before pruning; nan for questions without an image [n].
        rows: sample id and score parts, by arm and question.
        dropped: number of questions excluded because an arm has no response yet.
    """

    task: Task
    arm_ids: list[str]
    sample_ids: list[str]
    image_ids: list[str]
    clusters: NDArray[np.int64]
    scores: Floats
    kept: Floats
    layers: Floats
    costs: Mapping[str, Floats]
    n_visual: Floats
    rows: list[list[dict[str, Any]]]
    dropped: int

    @property
    def images(self) -> int:
        """G, the number of different images."""
        return len(self.image_ids)

    @property
    def measured(self) -> Floats:
        """Tokens that a budget limits: mean over layers for layer selectors, else tokens that entered [n, A]."""
        return np.where(np.isnan(self.layers), self.kept, self.layers)

    @property
    def keys(self) -> list[str]:
        """Image keys for resampling, the same in all tasks that share an image [G]."""
        return [self.task.image_key(image) for image in self.image_ids]

    def columns(self, members: Sequence[str]) -> list[int]:
        """Column numbers of the members of a table row that have records."""
        return [self.arm_ids.index(member) for member in members if member in self.arm_ids]


def align(records: pd.DataFrame, task: Task, arm_ids: Sequence[str]) -> TaskSamples | None:
    """Align the questions of `task` with responses under all `arm_ids` that have records; None if there are none."""
    mine = records[records["task"] == task.name]
    begun = set(mine["arm_id"])
    present = [arm for arm in arm_ids if arm in begun]
    mine = mine[mine["arm_id"].isin(present)]
    counts = mine["sample_id"].value_counts()
    # Some metrics need all questions of an image (MME pairs): images with a missing response are excluded.
    gaps = set(mine.loc[mine["sample_id"].isin(counts.index[counts < len(present)]), "image_id"])
    common = sorted(mine.loc[~mine["image_id"].isin(gaps), "sample_id"].unique())
    if not present or not common:
        return None
    # After one sort, all arms have the same order of questions, so that columns can be reshaped to [A, n].
    place = {arm: number for number, arm in enumerate(present)}
    mine = mine[mine["sample_id"].isin(set(common))]
    mine = mine.iloc[np.lexsort((mine["sample_id"].to_numpy(str), mine["arm_id"].map(place).to_numpy()))]
    shape = len(present), len(common)
    image_ids, clusters = np.unique(mine["image_id"].to_numpy(str)[: shape[1]], return_inverse=True)
    n_visual = mine["n_visual"].to_numpy(float)[: shape[1]]
    has_image = n_visual > 0
    parts = mine["parts"].to_numpy(object).reshape(shape)

    def table(column: str) -> Floats:
        return np.asarray(pd.to_numeric(mine[column]).to_numpy(float).reshape(shape).T)

    return TaskSamples(
        task=task,
        arm_ids=present,
        sample_ids=common,
        image_ids=image_ids.tolist(),
        clusters=clusters.astype(np.int64),
        scores=table("score"),
        kept=np.where(has_image[:, None], table("kept_tokens"), np.nan),
        layers=np.where(has_image[:, None], table("layer_tokens"), np.nan),
        costs={name: table(name) for name in COSTS if name in mine},
        n_visual=np.where(has_image, n_visual, np.nan),
        rows=[
            [{"sample_id": sample, **row} for sample, row in zip(common, part, strict=True)] for part in parts
        ],
        dropped=len(counts) - len(common),
    )

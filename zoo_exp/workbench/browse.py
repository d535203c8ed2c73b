"""The questions of a run, filtered and in pages, with the responses and masks of every arm."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_exp.errors import UnknownNameError
from zoo_exp.overlays import overlaid
from zoo_exp.report.gallery import plain
from zoo_exp.report.mask_items import CORRECT, MaskItem, answer_text, read_masks
from zoo_exp.report.page_galleries import data_url
from zoo_exp.runs.load import load_run

FILTERS = {
    "all": "all questions",
    "disagree": "arms disagree",
    "wrong": "mine wrong",
    "only_wrong": "mine wrong, another right",
    "only_right": "mine right, another wrong",
    "not_applicable": "not applicable to mine",
}
PAGE = 25
"""Questions per page."""
TEXT = 2000
"""Characters of a question or a response that are shown."""


@dataclass(frozen=True)
class Wanted:
    """What a reader asks to see.

    Attributes:
        task: only this task; empty for all.
        kind: one of `FILTERS`.
        mine: the arm that "mine" means.
        text: part of a question, reference answer or sample id, ignoring case.
        page: number of the page, from 0.
    """

    task: str = ""
    kind: str = "all"
    mine: str = ""
    text: str = ""
    page: int = 0


class Browser:
    """Reads the scores of a run once, and the texts of the questions that are shown.

    Args:
        run_dir: the run folder.

    Raises:
        MissingFileError: no run, or no records.
    """

    def __init__(self, run_dir: Path) -> None:
        run = load_run(run_dir)
        self.name, self.folder = run.name, run_dir
        self.model = str(run.model.get("name", ""))
        tasks = run.answers.tasks
        self.tasks = list(tasks)
        self._listed = {str(arm["arm"]): arm for arm in run.answers.arms}
        recorded = list(self._listed)
        listed = [str(arm["arm"]) for arm in run.experiment["arms"]]
        self.arms = [*dict.fromkeys(arm for arm in listed if arm in recorded)]
        self.arms += [arm for arm in recorded if arm not in self.arms]
        labels = {arm["arm_id"]: str(arm["arm"]) for arm in run.answers.arms}
        counts = [len(task.sample_ids) for task in tasks.values()]
        self._task = np.repeat(np.arange(len(counts)), counts)
        shape = sum(counts), len(self.arms)
        self._places = np.full(shape, -1, np.int64)  # where each record is
        self._score = np.full(shape, np.nan)
        self._refused = np.zeros(shape, bool)
        start = 0
        for task, count in zip(tasks.values(), counts, strict=True):
            for identity, arm in task.arms.items():
                numbers, column = start + arm.values("sample"), self.arms.index(labels[identity])
                self._places[numbers, column] = arm.values("place")
                self._score[numbers, column] = arm.values("score")
                self._refused[numbers, column] = arm.values("refused") > 0
                self._record = arm.store.row
            start += count
        self._first = self._places[np.arange(shape[0]), (self._places >= 0).argmax(axis=1)]
        self._masks: dict[tuple[str, str], MaskItem] | None = None

    @property
    def questions(self) -> int:
        """Number of questions."""
        return len(self._places)

    def default_arm(self) -> str:
        """The arm that "mine" means at first: ZOO's last one, or else the last that has a budget."""
        zoo = [arm for arm in self.arms if self._listed[arm]["selector"] == "zoo"]
        budgeted = [arm for arm in self.arms if self._listed[arm]["budget"] is not None]
        return str([*self.arms, *budgeted, *zoo][-1])

    def page(self, wanted: Wanted) -> dict[str, Any]:
        """One page of the questions that match, as plain data.

        Raises:
            UnknownNameError: an unknown task, arm or filter.
        """
        found = np.flatnonzero(self._matching(wanted))
        pages = max(1, -(-len(found) // PAGE))
        page = min(max(wanted.page, 0), pages - 1)
        shown = found[page * PAGE : (page + 1) * PAGE]
        return {
            "total": len(found),
            "questions": self.questions,
            "page": page,
            "pages": pages,
            "items": [self._line(int(number), wanted.mine) for number in shown],
        }

    def question(self, number: int) -> dict[str, Any]:
        """One question with every arm: response, counts, and the figure of its kept tokens where the run has a mask.

        Raises:
            UnknownNameError: no question of that number.
        """
        if not 0 <= number < self.questions:
            raise UnknownNameError(
                "question", str(number), (), f"This run has questions 0 to {self.questions - 1}."
            )
        first = self._record(int(self._first[number]))
        task, sample = str(first["task"]), str(first["sample_id"])
        item = self._mask(task, sample)
        kept = {} if item is None else {arm.arm: arm.indices for arm in item.arms}
        arms = []
        for place, arm in enumerate(self.arms):
            if self._places[number, place] < 0:
                continue
            record = self._record(int(self._places[number, place]))
            figure = None
            if item is not None and arm in kept:
                figure = data_url(overlaid(item.image, kept[arm], item.grid, 360))
            refused = record.get("not_applicable")
            arms.append(
                {
                    "arm": arm,
                    "response": _text(record["response"]),
                    "right": self._right(number, place),
                    "kept": int(record["kept_tokens"]),
                    "layers": None
                    if record["layer_tokens"] is None
                    else round(float(record["layer_tokens"]), 1),
                    "problem": "" if refused is None else _text(refused),
                    "figure": figure,
                }
            )
        return {**self._line(number, ""), "arms": arms, "masked": item is not None}

    def masked_images(self, most: int) -> list[MaskItem]:
        """The first questions with masks, one per image, as images to ask about."""
        items: dict[bytes, MaskItem] = {}
        for item in self._all_masks().values():
            items.setdefault(item.image.tobytes()[:4096], item)
            if len(items) == most:
                break
        return list(items.values())

    def _matching(self, wanted: Wanted) -> NDArray[np.bool_]:
        if wanted.kind not in FILTERS:
            raise UnknownNameError("filter", wanted.kind, FILTERS)
        if wanted.mine and wanted.mine not in self.arms:
            raise UnknownNameError("arm", wanted.mine, self.arms)
        chosen = np.ones(self.questions, bool)
        if wanted.task:
            if wanted.task not in self.tasks:
                raise UnknownNameError("task", wanted.task, self.tasks)
            chosen &= self._task == self.tasks.index(wanted.task)
        if wanted.text:
            text = wanted.text.lower()
            chosen &= np.fromiter((text in words for words in self._words), bool, self.questions)
        if wanted.kind == "all":
            return chosen
        known = ~np.isnan(self._score)
        right = known & (np.nan_to_num(self._score) >= CORRECT)
        wrong = known & ~right
        if wanted.kind == "disagree":
            return chosen & right.any(axis=1) & wrong.any(axis=1)
        mine = self.arms.index(wanted.mine or self.default_arm())
        others = np.arange(len(self.arms)) != mine
        kinds = {
            "wrong": wrong[:, mine],
            "only_wrong": wrong[:, mine] & right[:, others].any(axis=1),
            "only_right": right[:, mine] & wrong[:, others].any(axis=1),
            "not_applicable": self._refused[:, mine],
        }
        return chosen & kinds[wanted.kind]

    @cached_property
    def _words(self) -> list[str]:
        """What a search for text looks at, by question; read at the first search."""
        records = map(self._record, self._first.tolist())
        return [
            f"{one['question']}\n{answer_text(one['reference'])}\n{one['sample_id']}".lower()
            for one in records
        ]

    def _line(self, number: int, mine: str) -> dict[str, Any]:
        record = self._record(int(self._first[number]))
        known = [
            right for place in range(len(self.arms)) if (right := self._right(number, place)) is not None
        ]
        line = {
            "n": number,
            "task": str(record["task"]),
            "id": str(record["sample_id"]),
            "question": _text(record["question"]),
            "reference": _text(answer_text(record["reference"])),
            "right": sum(known),
            "scored": len(known),
        }
        if mine:
            place = int(self._places[number, self.arms.index(mine)])
            if place >= 0:
                line["response"] = _text(self._record(place)["response"])
                line["mine"] = self._right(number, self.arms.index(mine))
        return line

    def _right(self, number: int, place: int) -> bool | None:
        score = self._score[number, place]
        return None if np.isnan(score) else bool(score >= CORRECT)

    def _mask(self, task: str, sample: str) -> MaskItem | None:
        return self._all_masks().get((task, sample))

    def _all_masks(self) -> dict[tuple[str, str], MaskItem]:
        if self._masks is None:
            self._masks = {(item.task, item.sample_id): item for item in read_masks(self.folder)}
        return self._masks


def _text(value: Any) -> str:
    shown = plain(str(value))
    return shown if len(shown) <= TEXT else shown[: TEXT - 1] + "…"

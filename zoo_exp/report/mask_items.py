"""Kept visual tokens of single questions: read from a run, and selected for a gallery by a stated criterion."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from zoo_exp.errors import MissingFileError
from zoo_exp.files import log
from zoo_exp.runs import folder, reading
from zoo_exp.statistics.focus import CORRECT, FAILURE, SUCCESS, Judges, row_correct

RULE = (
    "Examples: per task, the first question on which the arms shown disagree, otherwise the first question. "
    "For layer selectors, the tokens that reach the last decoder layer are shown."
)
SEEDS = (
    "An arm with several seeds counts as correct if its mean score over the seeds is at least 0.5; other arms of the "
    "same selector do not count."
)
SUCCESSES = (
    "Per task, {number} with masks that {arm} answers correctly and more than half of the other selectors at this "
    "budget answer incorrectly: those that the fewest of them answer correctly. "
) + SEEDS
FAILURES = (
    "Per task, {number} with masks that {arm} answers incorrectly and more than half of the other selectors at this "
    "budget answer correctly: those that the most of them answer correctly, and of these first those that the full "
    "model answers correctly. "
) + SEEDS


@dataclass(frozen=True)
class MaskArm:
    """What one arm kept of an image, and its response; `score` is None for a question without a reference answer."""

    arm: str
    indices: tuple[int, ...]
    response: str
    score: float | None

    @property
    def correct(self) -> bool | None:
        """Whether the response counts as correct; None where there is no reference answer."""
        return None if self.score is None else self.score >= CORRECT


@dataclass(frozen=True)
class MaskItem:
    """One question about one image, under several arms.

    Attributes:
        task: name of the task.
        sample_id: id of the question.
        question: as asked.
        reference: the reference answer.
        grid: rows and columns of the token grid.
        image: the image as the model saw it.
        arms: in the order of the columns.
    """

    task: str
    sample_id: str
    question: str
    reference: str
    grid: tuple[int, int]
    image: Image.Image
    arms: tuple[MaskArm, ...]


def read_masks(run_dir: Path, tasks: Collection[str] | None = None) -> list[MaskItem]:
    """Every question of the run that has masks, with its image; empty where the run recorded none.

    A damaged row, or an image that is missing, unreadable or outside the run folder, is named and left out.

    Args:
        run_dir: the run folder.
        tasks: only these tasks; all, if None.
    """
    items = []
    for row in reading.masks(Path(run_dir)):
        if tasks is not None and row.task not in tasks:
            continue
        try:
            image = _image(Path(run_dir), row.image)
        except MissingFileError as error:
            log.warning(f"{error}: the masks of {row.task} {row.sample_id} are left out")
            continue
        arms = tuple(MaskArm(arm.arm, arm.indices, arm.response, arm.score or 0.0) for arm in row.arms)
        reference = answer_text(row.reference)
        items.append(MaskItem(row.task, row.sample_id, row.question, reference, row.grid, image, arms))
    return items


def choose(
    items: Sequence[MaskItem], arms: Collection[str], tasks: Sequence[str], rows: int = 9, each: int = 1
) -> list[MaskItem]:
    """`each` questions per task by `RULE`, at most `rows`, each with the arms named in `arms` (in that order)."""
    chosen = []
    for task in tasks:
        mine = []
        for item in items:
            by_name = {arm.arm: arm for arm in reversed(item.arms)}
            shown = tuple(by_name[name] for name in arms if name in by_name)
            if item.task == task and shown:
                mine.append(replace(item, arms=shown))
        apart = [item for item in mine if len({arm.correct for arm in item.arms}) > 1]
        # Questions on which arms disagree first, and of these one with all arms: it names the columns.
        rest = [item for item in mine if item not in apart]
        ordered = [i for part in (apart, rest) for i in sorted(part, key=lambda item: -len(item.arms))]
        chosen += ordered[:each]
    return chosen[:rows]


def successes(items: Sequence[MaskItem], judges: Judges, each: int = 1) -> list[MaskItem]:
    """At most `each` questions per task that the focus answers correctly and most others incorrectly (`SUCCESSES`)."""
    return _examples(items, judges, SUCCESS, each)


def failures(items: Sequence[MaskItem], judges: Judges, each: int = 1) -> list[MaskItem]:
    """At most `each` questions per task that the focus answers incorrectly and most others correctly (`FAILURES`)."""
    return _examples(items, judges, FAILURE, each)


def _examples(items: Sequence[MaskItem], judges: Judges, wanted: str, each: int) -> list[MaskItem]:
    chosen: list[MaskItem] = []
    for task in dict.fromkeys(item.task for item in items):
        fitting: list[tuple[float, bool, int, MaskItem]] = []
        for place, item in enumerate(item for item in items if item.task == task):
            scores = {arm.arm: math.nan if arm.score is None else arm.score for arm in item.arms}
            kind, number, count = judges.judge(scores)
            if kind != wanted:
                continue
            share = number / count if wanted == SUCCESS else -number / count
            without_full = (
                wanted == FAILURE and judges.full is not None and not row_correct(scores, judges.full)
            )
            fitting.append((share, without_full, place, item))
        chosen += [entry[3] for entry in sorted(fitting, key=lambda entry: entry[:3])[:each]]
    return chosen


def answer_text(reference: Any) -> str:
    """A reference as a reader expects it; of VQA's ten answers the three most frequent ones."""
    if isinstance(reference, (list, tuple)):
        answers = [str(answer) for answer in reference]
        return " / ".join(sorted(dict.fromkeys(answers), key=lambda a: -answers.count(a))[:3])
    return str(reference)


def _image(run_dir: Path, name: str) -> Image.Image:
    path = run_dir / name
    try:
        if not folder.inside(run_dir, path):
            raise MissingFileError(f"image '{name}' lies outside the run folder: not opened")
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")
    except MissingFileError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MissingFileError(f"cannot read image {path}: {error}") from error

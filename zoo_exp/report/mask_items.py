"""Read masks.jsonl of a run and choose, by rule, what its gallery shows."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from zoo_exp.errors import MissingFileError
from zoo_exp.report.masks import MaskArm, MaskItem
from zoo_exp.runs import journal
from zoo_exp.runs.records import read_jsonl

MASKS_FILE = "masks.jsonl"
RULE = (
    "Chosen by rule: of each task the first question on which the arms shown disagree, else the first. "
    "Of arms that drop tokens inside the language model: what its last layer sees."
)


def read_masks(run_dir: Path, tasks: Collection[str] | None = None) -> list[MaskItem]:
    """Every question of the run that has masks, pictures loaded; empty where the run made none.

    A run that is at work, or was cut off, has rows in its journals: their arms join those of the merged file.

    Args:
        run_dir: the run folder.
        tasks: of these tasks only; None for all.

    Raises:
        MissingFileError: a damaged line, or a picture that is missing, unreadable or outside the run folder.
    """
    merged = Path(run_dir) / MASKS_FILE
    paths = [*([merged] if merged.exists() else []), *journal.journals(Path(run_dir), "masks")]
    items: dict[tuple[str, str], MaskItem] = {}
    for path, number, row in ((file, *line) for file in paths for line in read_jsonl(file)):
        if tasks is not None and row.get("task") not in tasks:
            continue
        try:
            item = MaskItem(
                task=str(row["task"]),
                sample_id=str(row["sample_id"]),
                question=str(row.get("question") or ""),
                reference=_answer(row.get("reference")),
                grid=(int(row["grid"][0]), int(row["grid"][1])),
                image=_picture(Path(run_dir), str(row["image"])),
                arms=tuple(
                    MaskArm(
                        str(arm["arm"]),
                        tuple(int(i) for i in arm["indices"]),
                        str(arm.get("response") or ""),
                        float(arm.get("score") or 0.0),
                    )
                    for arm in row["arms"]
                ),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MissingFileError(f"{path}, line {number} is no mask row: {error!r}") from error
        key = item.task, item.sample_id
        known = {arm.arm for arm in items[key].arms} if key in items else set()
        if key not in items:
            items[key] = item
        elif more := tuple(arm for arm in item.arms if arm.arm not in known):
            items[key] = replace(items[key], arms=items[key].arms + more)
    return list(items.values())


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
        apart = [item for item in mine if len({arm.score >= 0.5 for arm in item.arms}) > 1]
        # Items on which arms disagree first, and of these one with all arms: it names the columns.
        rest = [item for item in mine if item not in apart]
        ordered = [i for part in (apart, rest) for i in sorted(part, key=lambda item: -len(item.arms))]
        chosen += ordered[:each]
    return chosen[:rows]


def _answer(reference: Any) -> str:
    """A reference as a reader expects it; of VQA's ten answers the three commonest."""
    if isinstance(reference, (list, tuple)):
        answers = [str(answer) for answer in reference]
        return " / ".join(sorted(dict.fromkeys(answers), key=lambda a: -answers.count(a))[:3])
    return str(reference)


def _picture(run_dir: Path, name: str) -> Image.Image:
    path = (run_dir / name).resolve()
    if not path.is_relative_to(run_dir.resolve()):
        raise MissingFileError(f"picture '{name}' of {MASKS_FILE} lies outside the run folder: not opened")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise MissingFileError(f"cannot read picture {path}: {error}") from error

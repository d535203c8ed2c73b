"""Images of the embedded worlds: held-out scenes with a question of each family, or one scene alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo_exp.embedded.benchmarks import UNITS, asked, held_out_scene
from zoo_exp.embedded.questions import FAMILIES, Question
from zoo_exp.errors import InvalidValueError

WORLD_1 = "world1"


def draw_samples(path: Path, split: str = "test", per_family: int = 3, view: str = WORLD_1) -> None:
    """Save a figure with one row per family.

    Args:
        path: the image file; its ending decides the format.
        split: validation or test; world 2 also has confirm.
        per_family: scenes per row.
        view: world1, or a view of world 2.

    Raises:
        InvalidValueError: world 1 has no such split.
    """
    _check_split(split, view)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(FAMILIES),
        per_family,
        figsize=(3.6 * per_family, 1.45 * len(FAMILIES)),
        squeeze=False,
        layout="constrained",
    )
    for row, family in zip(axes, FAMILIES, strict=True):
        chosen: dict[int, tuple[Any, Question]] = {}
        for index, pixels, question in _asked(family, split, view):
            chosen.setdefault(index, (pixels, question))
            if len(chosen) == per_family:
                break
        for axis, (pixels, question) in zip(row, chosen.values(), strict=True):
            height, width = pixels.shape[:2]
            side = max(height, width)
            axis.imshow(pixels, extent=(0, width / side, 0, height / side))
            axis.text(1.06, 1.0, question.prompt, va="top", fontsize=7.5, wrap=True)
            axis.text(1.06, 0.0, f"answer: {question.answer}", va="bottom", fontsize=8, weight="bold")
            axis.set_xlim(0, 2.4)
            axis.set_ylim(0, 1)
            axis.axis("off")
        row[0].set_title(family, loc="left", fontsize=10, weight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_scene(path: Path, number: int, split: str = "test", view: str = WORLD_1) -> Question:
    """Save the image of one scene in its own size.

    Args:
        path: the image file; its ending decides the format.
        number: which of the scenes that POPE asks about, from 0.
        split: validation or test; world 2 also has confirm.
        view: world1, or a view of world 2.

    Returns:
        The first question about it.

    Raises:
        InvalidValueError: world 1 has no such split, a negative number, or an ending that is no image format.
    """
    _check_split(split, view)
    if not 0 <= number < UNITS:
        raise InvalidValueError(f"--scene {number}: give 0 to {UNITS - 1}")
    from PIL import Image

    scenes: dict[int, tuple[Any, Question]] = {}
    for index, pixels, question in _asked("pope", split, view):
        scenes.setdefault(index, (pixels, question))
        if len(scenes) > number:
            break
    pixels, question = list(scenes.values())[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        Image.fromarray(pixels).save(path)
    except ValueError as error:
        raise InvalidValueError(f"--out {path}: give a name that ends in .png or .jpg") from error
    return question


def _check_split(split: str, view: str) -> None:
    if view == WORLD_1 and split == "confirm":
        raise InvalidValueError(
            "world 1 has no split confirm: give --split validation or test, or --view world2"
        )


def _asked(family: str, split: str, view: str) -> Iterator[tuple[int, Any, Question]]:
    """Scene number, pixels, question."""
    if view == WORLD_1:
        for index, _, question in asked(family, split):
            yield index, held_out_scene(split, index).pixels, question
        return
    from zoo_exp.embedded.world2.rows import asked_2

    for index, _, scene, question in asked_2(family, split, view):
        yield index, scene.pixels, question

"""The nine benchmarks of world 2 in the official data sets' columns: splits by scene, three kinds of images.

Views: `world2` has images of 96 x 96 px, `world2_tiles` of 192 x 192 px (for a base view and 2 x 2 tiles), and
`world2_sizes` of many sizes, half of them 96 x 96 px.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import count, islice

from PIL import Image

from zoo_exp.embedded import benchmarks
from zoo_exp.embedded.benchmarks import Row
from zoo_exp.embedded.questions import Question
from zoo_exp.embedded.world2.asking import FAMILIES_2, ask_2, mme_pair_2
from zoo_exp.embedded.world2.layout import BASE_SIDE, Scene2, make_scene_2
from zoo_exp.embedded.world2.question_packs import PLACED
from zoo_exp.errors import UnknownNameError

SPLITS_OF_ROWS = ("validation", "test", "confirm")
VIEWS = ("world2", "world2_tiles", "world2_sizes")
SIZES = range(64, 161, 8)
LARGEST = 160 * 128  # pixels
SMALL = 13  # pixels of the longer side up to which a thing counts as small


def size_of(view: str, split: str, index: int, family: str) -> tuple[int, int]:
    """Height and width of a scene in a view; families that ask for halves look at the usual size."""
    if view == "world2_tiles":
        return 2 * BASE_SIDE, 2 * BASE_SIDE
    rng = random.Random(f"size/{split}/{index}")
    if view == "world2" or family in PLACED or rng.random() < 0.5:
        return BASE_SIDE, BASE_SIDE
    height = rng.choice(SIZES)
    return height, rng.choice([width for width in SIZES if height * width <= LARGEST])


@lru_cache(maxsize=2048)
def scene_of(split: str, index: int, size: tuple[int, int]) -> Scene2:
    """A scene of a held-out split; kept, since the families ask about the same ones."""
    return make_scene_2(split, index, *size)


def asked_2(family: str, split: str, view: str = "world2") -> Iterator[tuple[int, int, Scene2, Question]]:
    """Scene number, place within the scene, scene, question: without end, in the order of the benchmark.

    MME asks pairs; MMBench asks every question once per option, the options rotated (CircularEval).
    """
    for index in count():
        scene = scene_of(split, index, size_of(view, split, index, family))
        rng = random.Random(f"{view}/{family}/{split}/{index}")
        if family == "mme":
            group: tuple[Question, ...] = mme_pair_2(scene, rng) or ()
        else:
            question = ask_2(family, scene, rng)
            group = () if question is None else (question,)
        if family == "mmbench":
            group = tuple(rotated for question in group for rotated in benchmarks._rotations(question))
        for place, question in enumerate(group):
            yield index, place, scene, question


def rows_2(
    family: str,
    split: str = "test",
    limit: int | None = None,
    view: str = "world2",
    units: int | None = None,
) -> list[Row]:
    """Rows of a family's benchmark, by default those of all 500 units (questions, MME pairs, MMBench groups).

    Args:
        family: one of the nine, such as gqa.
        split: validation, test or confirm; they share no scene, no digit's scan and no part of a photograph.
        limit: the first so many rows.
        view: which images.
        units: those of the first so many units.

    Raises:
        UnknownNameError: no such family, split or view.
    """
    for what, value, known in (
        ("family of the embedded benchmarks", family, tuple(FAMILIES_2)),
        ("split of the embedded benchmarks", split, SPLITS_OF_ROWS),
        ("view of world 2", view, VIEWS),
    ):
        if value not in known:
            raise UnknownNameError(what, value, known)
    make = benchmarks._ROW_MAKERS[family]
    made = []
    asked = benchmarks.of_first_units(asked_2(family, split, view), units)
    for index, place, scene, question in islice(asked, limit):
        label = f"{view}-{split}"
        image = _image(split, index, (scene.height, scene.width))
        if family == "textvqa":
            row = benchmarks._textvqa_row(label, index, place, question, image, scene.of("word", "digit"))
        else:
            row = make(label, index, place, question, image)
        # Rows of one size of image show the same scene in every family.
        made.append({**row, "scene": f"{label}-{scene.height}x{scene.width}-{index:05d}"})
    return made


@lru_cache(maxsize=2048)
def _image(split: str, index: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(scene_of(split, index, size).pixels)

"""The nine small benchmarks: questions about held-out scenes, as rows in the official data sets' columns.

The same task classes that read the official parquet files read these rows (spec: benchmarks 1 to 9).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count, groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

from PIL import Image

from zoo_exp.embedded.questions import FAMILIES, Question, ask, mme_pair
from zoo_exp.embedded.scene import Scene, make_scene
from zoo_exp.embedded.vocabulary import LETTERS
from zoo_exp.errors import UnknownNameError

ROWS = 500  # rows of a family that accuracy is measured on; a multiple of 4, so that no MMBench or MME group is cut
UNITS = 500  # units of a family in a held-out split: questions, MME pairs, MMBench rotation groups
HELD_OUT_SPLITS = ("validation", "test")
ABSENT = "nan"  # what MMBench writes where a row has no hint or no such option

Row = dict[str, Any]
Asked = TypeVar("Asked", bound=tuple[Any, ...])


@lru_cache(maxsize=1024)
def held_out_scene(split: str, index: int) -> Scene:
    """A scene of a held-out split; kept, since all nine families ask about the same ones."""
    return make_scene(split, index)


def asked(family: str, split: str) -> Iterator[tuple[int, int, Question]]:
    """Scene number, place within the scene, question: without end, in the order of the benchmark.

    MME asks pairs; MMBench asks every question once per option, the options rotated (CircularEval).
    """
    for index in count():
        scene = held_out_scene(split, index)
        rng = random.Random(f"{family}/{split}/{index}")
        if family == "mme":
            group: tuple[Question, ...] = mme_pair(scene, rng) or ()
        else:
            question = ask(family, scene, rng)
            group = () if question is None else (question,)
        if family == "mmbench":
            group = tuple(rotated for question in group for rotated in _rotations(question))
        for place, question in enumerate(group):
            yield index, place, question


def _rotations(question: Question) -> list[Question]:
    size = len(question.options)
    right = LETTERS.index(question.answer)
    return [
        Question(
            question.text,
            LETTERS[(right - turn) % size],
            question.options[turn:] + question.options[:turn],
            question.topic,
        )
        for turn in range(size)
    ]


def of_first_units(questions: Iterator[Asked], units: int | None) -> Iterator[Asked]:
    """The questions of the first units, at most of `UNITS`.

    Args:
        questions: tuples with the scene's number and the question's place in its unit, in the order of the benchmark.
        units: how many; None means all.
    """
    groups = groupby(questions, key=itemgetter(0))  # a scene is asked about once: its questions are one unit
    for _, group in islice(groups, UNITS if units is None else min(units, UNITS)):
        yield from group


def rows(family: str, split: str = "test", limit: int | None = None, units: int | None = None) -> list[Row]:
    """Rows of a family's benchmark, by default those of all `UNITS` units.

    Besides the official columns each row has `scene`: all families ask about the same scenes.

    Args:
        family: one of the nine, such as gqa.
        split: validation or test.
        limit: the first so many rows.
        units: those of the first so many units.

    Raises:
        UnknownNameError: no such family or split.
    """
    if family not in _ROW_MAKERS:
        raise UnknownNameError("family of the embedded benchmarks", family, _ROW_MAKERS)
    if split not in HELD_OUT_SPLITS:
        raise UnknownNameError("split of the embedded benchmarks", split, HELD_OUT_SPLITS)
    make = _ROW_MAKERS[family]
    return [
        {**make(split, index, place, question, _image(split, index)), "scene": _name(split, index)}
        for index, place, question in islice(of_first_units(asked(family, split), units), limit)
    ]


@lru_cache(maxsize=1024)
def _image(split: str, index: int) -> Image.Image:
    return Image.fromarray(held_out_scene(split, index).pixels)


def _name(split: str, index: int) -> str:
    return f"{split}-{index:05d}"


def _number(index: int, place: int) -> int:
    return index * 10 + place


def _lettered(question: Question, pattern: str, absent: str | None) -> dict[str, str | None]:
    """Options in columns named after their letter."""
    padded = [*question.options, *[absent] * (len(LETTERS) - len(question.options))]
    return {pattern.format(letter): option for letter, option in zip(LETTERS, padded, strict=True)}


def _gqa(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "id": f"{_name(split, index)}-{place}",
        "imageId": _name(split, index),
        "image": image,
        "question": question.text,
        "answer": question.answer,
        "fullAnswer": question.answer,
        "isBalanced": True,
        "types": {"structural": "query", "semantic": question.topic, "detailed": question.topic},
    }


def _vqav2(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    answers = [
        {"answer": question.answer, "answer_confidence": "yes", "answer_id": number}
        for number in range(1, 11)
    ]
    return {
        "question_type": " ".join(question.text.split()[:2]).lower(),
        "multiple_choice_answer": question.answer,
        "answers": answers,
        "image_id": index,
        "answer_type": question.topic,
        "question_id": _number(index, place),
        "question": question.text,
        "image": image,
    }


def _textvqa(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return _textvqa_row(split, index, place, question, image, held_out_scene(split, index).writings)


def _textvqa_row(
    split: str, index: int, place: int, question: Question, image: Image.Image, writings: Sequence[Any]
) -> Row:
    return {
        "image_id": _name(split, index),
        "question_id": _number(index, place),
        "question": question.text,
        "question_tokens": question.text.lower().rstrip("?").split(),
        "image": image,
        "image_width": image.width,
        "image_height": image.height,
        "image_classes": [question.topic],
        "answers": [question.answer] * 10,
        "ocr_tokens": [thing.name for thing in writings],
        "set_name": split,
    }


def _scienceqa(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "image": image,
        "question": question.text,
        "choices": list(question.options),
        "answer": LETTERS.index(question.answer),
        "hint": "",
        "task": "closed choice",
        "grade": "grade1",
        "subject": "natural science",
        "topic": "mathematics",
        "category": _name(split, index),
        "skill": question.topic,
        "lecture": "",
        "solution": "",
    }


def _pope(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "id": str(_number(index, place)),
        "question_id": str(_number(index, place)),
        "question": question.text,
        "answer": question.answer,
        "image_source": _name(split, index),
        "image": image,
        "category": question.topic,
    }


def _mme(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "question_id": f"{question.topic}/{_name(split, index)}.png",
        "image": image,
        "question": f"{question.text} Please answer yes or no.",
        "answer": question.answer.capitalize(),
        "category": question.topic,
    }


def _mmbench(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "index": index + place * 1_000_000,
        "question": question.text,
        "hint": ABSENT,
        "answer": question.answer,
        **_lettered(question, "{}", ABSENT),
        "category": question.topic,
        "image": image,
        "source": _name(split, index),
        "L2-category": "perception",
        "comment": ABSENT,
        "split": split,
    }


def _mmmu(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "id": f"{split}_{question.topic}_{_number(index, place)}",
        "question": f"<image 1> {question.text}",
        "options": repr(list(question.options)),
        "explanation": "",
        "image_1": image,
        **{f"image_{i}": None for i in range(2, 8)},
        "img_type": "['Drawings']",
        "answer": question.answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": question.topic,
    }


def _seedbench(split: str, index: int, place: int, question: Question, image: Image.Image) -> Row:
    return {
        "answer": question.answer,
        **{key.lower(): option for key, option in _lettered(question, "choice_{}", "").items()},
        "data_id": _name(split, index),
        "data_type": "image",
        "question": question.text,
        "question_id": str(_number(index, place)),
        "question_type_id": question.topic,
        "image": [image],
        "segment": [],
    }


_ROW_MAKERS: dict[str, Callable[[str, int, int, Question, Image.Image], Row]] = {
    "gqa": _gqa,
    "vqav2": _vqav2,
    "textvqa": _textvqa,
    "scienceqa": _scienceqa,
    "pope": _pope,
    "mme": _mme,
    "mmbench": _mmbench,
    "mmmu": _mmmu,
    "seedbench": _seedbench,
}
assert _ROW_MAKERS.keys() == FAMILIES.keys()

"""A few rows of each of the nine benchmarks in the official folders and columns, with images drawn here."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIZES = ((336, 336), (280, 224), (224, 336))
"""Width and height of the images, one after the other."""
Row = dict[str, Any]


def image_cell(number: int, size: tuple[int, int] | None = None) -> Row:
    """An image with a few rectangles, as parquet files of the benchmarks hold it."""
    width, height = size or SIZES[number % len(SIZES)]
    image = Image.new("RGB", (width, height), (40 + 50 * number % 200, 120, 160))
    draw = ImageDraw.Draw(image)
    for i in range(4):
        x, y = (37 * (number + 3 * i)) % (width // 2), (53 * (number + i)) % (height // 2)
        draw.rectangle(
            (x, y, x + width // 4, y + height // 4), fill=(60 * i, 255 - 60 * i, 17 * number % 256)
        )
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def _gqa(count: int) -> Mapping[str, Sequence[Row]]:
    questions = [
        {"id": str(n), "imageId": f"n{n}", "question": "Is it overcast?", "answer": "no"}
        for n in range(count)
    ]
    images = [{"id": f"n{n}", "image": image_cell(n)} for n in range(count)]
    name = "testdev-00000-of-00001"
    return {f"testdev_balanced_instructions/{name}": questions, f"testdev_balanced_images/{name}": images}


def _vqav2(count: int) -> Mapping[str, Sequence[Row]]:
    answers = [{"answer": "cat", "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)]
    rows = [
        {"question_id": n, "image_id": 100 + n, "question": "What is this?", "question_type": "what is"}
        | {
            "multiple_choice_answer": "cat",
            "answers": answers,
            "answer_type": "other",
            "image": image_cell(n),
        }
        for n in range(count)
    ]
    return {"data/validation-00000-of-00001": rows}


def _textvqa(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {"image_id": f"i{n}", "question_id": n, "question": "what does it say?", "answers": ["stop"] * 10}
        | {"image": image_cell(n), "ocr_tokens": ["STOP"], "set_name": "val"}
        for n in range(count)
    ]
    return {"data/validation-00000-of-00001": rows}


def _scienceqa(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {
            "image": image_cell(n),
            "question": "Which is farthest north?",
            "choices": ["Ohio", "Texas"],
            "answer": 0,
        }
        | {"hint": "The passage below." if n % 2 else "", "subject": "social science"}
        for n in range(count)
    ]
    return {"ScienceQA-IMG/test-00000-of-00001": rows}


def _pope(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {"id": str(n), "question_id": str(n + 1), "question": "Is there a dog in the image?"}
        | {"answer": ("yes", "no")[n % 2], "image_source": f"COCO_{n}", "image": image_cell(n)}
        | {"category": "adversarial"}
        for n in range(count)
    ]
    return {"data/test-00000-of-00001": rows}


def _mme(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {
            "question_id": f"existence/{n}.png",
            "image": image_cell(n),
            "category": "existence",
            "answer": answer,
        }
        | {"question": f"Is there a {thing} in this image? Please answer yes or no."}
        for n in range(count)
        for thing, answer in (("dog", "Yes"), ("cat", "No"))
    ]
    return {"data/test-00000-of-00001": rows}


def _mmbench(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {"index": 241 + n + 1_000_000 * turn, "question": "What is it?", "hint": "nan", "answer": "AB"[turn]}
        | {"A": ("cat", "dog")[turn], "B": ("dog", "cat")[turn], "C": "nan", "D": "nan", "split": "dev"}
        | {"category": "object", "L2-category": "perception", "image": image_cell(n), "source": "x"}
        for turn in range(2)
        for n in range(count)
    ]
    return {"en/dev-00000-of-00001": rows}


def _mmmu(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {"id": f"validation_Accounting_{n}", "question": "<image 1> What is the price?", "answer": "B"}
        | {"options": "['$6', '$7']", "question_type": "multiple-choice", "topic_difficulty": "Easy"}
        | {f"image_{place}": image_cell(n) if place == 1 else None for place in range(1, 8)}
        for n in range(count)
    ]
    return {"data/validation-00000-of-00001": rows}


def _seedbench(count: int) -> Mapping[str, Sequence[Row]]:
    rows = [
        {"question_id": str(n), "question": "How many towels are there?", "answer": "A", "data_type": "image"}
        | {
            f"choice_{letter}": word
            for letter, word in zip("abcd", ("One", "Two", "Three", "Four"), strict=True)
        }
        | {"image": [image_cell(n)], "data_id": str(n), "question_type_id": 1}
        for n in range(count)
    ]
    return {"data/test-00000-of-00001": rows}


BENCHMARKS: dict[str, Callable[[int], Mapping[str, Sequence[Row]]]] = {
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


def make(root: Path, count: int = 2) -> Path:
    """Write all nine benchmarks with `count` units each below `root`; returns `root`."""
    import pyarrow as pa
    from pyarrow import parquet

    for name, rows_of in BENCHMARKS.items():
        for place, rows in rows_of(count).items():
            path = root / name / f"{place}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return root

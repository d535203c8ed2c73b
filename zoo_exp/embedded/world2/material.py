"""What scenes of world 2 are made of: world 1's shapes, digits and words, pictograms, and busier backgrounds.

Digits and photographs are split so that no scan and no part of a photograph is seen in two splits; the training
part is world 1's, whose weights warm-start the models of world 2.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoo_exp.embedded import assets
from zoo_exp.embedded.sklearn_data import load_photographs, load_scans
from zoo_exp.embedded.vocabulary import SHAPES, WORDS
from zoo_exp.embedded.world2.lexicon import PICTOGRAMS

Mask = NDArray[np.float32]

SPLITS_2 = ("train", "validation", "test", "confirm")
SHAPE_SIZES_2 = (10, 13, 17)
DIGIT_SIZES_2 = (12, 12, 16)
FONT_SIZES_2 = (11, 13)
PICTOGRAM_SIZES = (14, 16, 18)
SHEET = Path(__file__).parent / "pictograms.png"
BACKGROUNDS = 96
LETTER_STRINGS, CROPS = 96, 96

_DIGIT_CUTS = {"train": (0.0, 0.78), "validation": (0.78, 0.84), "test": (0.84, 0.92), "confirm": (0.92, 1.0)}
# Columns and rows of each photograph, as shares.
_PHOTO_CUTS = {
    "train": (0.0, 0.66, 0.0, 1.0),
    "validation": (0.66, 0.78, 0.0, 1.0),
    "test": (0.78, 1.0, 0.0, 0.5),
    "confirm": (0.78, 1.0, 0.5, 1.0),
}


@dataclass(frozen=True)
class Material:
    """All material of one split; masks are in [0, 1], pictograms and crops are RGB(A) in [0, 255].

    Attributes:
        letters: masks of letter strings that are no word of the vocabulary, as clutter.
        crops: small sharp crops of photographs, as clutter.
    """

    shapes: dict[tuple[str, int], list[Mask]]
    digits: list[list[Mask]]
    words: dict[tuple[str, int], Mask]
    pictograms: dict[tuple[str, int], list[Mask]]
    backgrounds: list[NDArray[np.uint8]]
    letters: list[Mask]
    crops: list[NDArray[np.uint8]]


@lru_cache(maxsize=len(SPLITS_2))
def load_material(split: str) -> Material:
    """Make the material of a split (about two seconds, once per process)."""
    rng = np.random.default_rng([47, SPLITS_2.index(split)])
    photographs = _photographs(split)
    return Material(
        shapes={
            (s, n): [assets.shape_mask(s, n, tilt) for tilt in assets.TILTS]
            for s in SHAPES
            for n in SHAPE_SIZES_2
        },
        digits=_digits(split),
        words={(w, n): assets._word_mask(w, n) for w in WORDS for n in FONT_SIZES_2},
        pictograms=_pictograms(),
        backgrounds=[assets._background(rng, photographs) for _ in range(BACKGROUNDS)],
        letters=[_letter_string(rng) for _ in range(LETTER_STRINGS)],
        crops=[_crop(rng, photographs) for _ in range(CROPS)],
    )


def _digits(split: str) -> list[list[Mask]]:
    """The split's scans, by digit; the same permutation as world 1's."""
    scans, digits = load_scans()
    order = np.random.default_rng(20).permutation(len(scans))
    first, last = (int(cut * len(order)) for cut in _DIGIT_CUTS[split])
    by_digit: list[list[Mask]] = [[] for _ in range(10)]
    for i in order[first:last]:
        by_digit[int(digits[i])].append((scans[i] / 16).astype(np.float32))
    return by_digit


def _photographs(split: str) -> list[NDArray[np.uint8]]:
    """The split's part of each of scikit-learn's two photographs."""
    left, right, top, bottom = _PHOTO_CUTS[split]
    parts = []
    for photo in load_photographs():
        height, width = photo.shape[:2]
        parts.append(photo[int(top * height) : int(bottom * height), int(left * width) : int(right * width)])
    return parts


def _pictograms() -> dict[tuple[str, int], list[Mask]]:
    """Pictograms RGBA in [0, 255] in every size, plain and mirrored."""
    sheet = Image.open(SHEET).convert("RGBA")
    side = sheet.height
    made: dict[tuple[str, int], list[Mask]] = {}
    for number, name in enumerate(PICTOGRAMS):
        sprite = sheet.crop((number * side, 0, (number + 1) * side, side))
        for size in PICTOGRAM_SIZES:
            small = np.asarray(sprite.resize((size, size), Image.Resampling.LANCZOS), np.float32)
            made[name, size] = [small, np.ascontiguousarray(small[:, ::-1])]
    return made


def _letter_string(rng: np.random.Generator) -> Mask:
    """Two to six random letters at a slant: edges like a word's, but no word of the vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    while True:
        text = "".join(letters[i] for i in rng.integers(0, 26, int(rng.integers(2, 7))))
        if text not in WORDS:
            break
    font = ImageFont.load_default(size=int(rng.integers(8, 16)))
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    image = Image.new("L", (right - left + 2, bottom - top + 2), 0)
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, font=font, fill=255)
    image = image.rotate(float(rng.uniform(-40, 40)), resample=Image.Resampling.BICUBIC, expand=True)
    return np.asarray(image, np.float32) / 255


def _crop(rng: np.random.Generator, photographs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A sharp crop of 8 to 22 pixels, taken from 1 to 3 times as many pixels of a photograph."""
    photo = photographs[rng.integers(len(photographs))]
    height, width = (int(v) for v in rng.integers(8, 23, 2))
    scale = float(rng.uniform(1, 3))
    tall, wide = min(int(height * scale), photo.shape[0]), min(int(width * scale), photo.shape[1])
    top, left = (int(rng.integers(0, photo.shape[axis] - size + 1)) for axis, size in ((0, tall), (1, wide)))
    part = Image.fromarray(photo[top : top + tall, left : left + wide])
    return np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))

"""A scene of world 2: a busy background with 12 to 16 things (per 96 x 96 px), and what every patch shows."""

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoo_exp.embedded.assets import resize
from zoo_exp.embedded.vocabulary import COLOR_NAMES, COLORS, DIGITS, SHAPES, WORDS
from zoo_exp.embedded.world2.lexicon import PICTOGRAMS
from zoo_exp.embedded.world2.material import (
    DIGIT_SIZES_2,
    FONT_SIZES_2,
    PICTOGRAM_SIZES,
    SHAPE_SIZES_2,
    SPLITS_2,
    Material,
    load_material,
)

PATCH = 8
BASE_SIDE = 96
SNAP = 4  # corners lie on multiples of this: the vision encoder learns in a fraction of the time
GAP = 1  # pixels between two things
MIN_OVERLAP = 12  # pixels of a thing's box in a patch before the patch counts as showing it

# What a patch can show: 0 background, then shapes, digits, words, pictograms.
KINDS: tuple[str, ...] = (*SHAPES, *DIGITS, *WORDS, *PICTOGRAMS)
N_KINDS_2 = 1 + len(KINDS)
N_CONTENTS_2 = len(KINDS) + len(COLOR_NAMES)
_FIRST_KIND = {
    "shape": 1,
    "digit": 1 + len(SHAPES),
    "word": 1 + len(SHAPES) + len(DIGITS),
    "pictogram": 1 + len(SHAPES) + len(DIGITS) + len(WORDS),
}
_NAMES = {"shape": SHAPES, "digit": DIGITS, "word": WORDS, "pictogram": PICTOGRAMS}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Item:
    """A shape, digit, word or pictogram; `box` is (top, left, bottom, right) in pixels."""

    kind: str
    name: str
    color: str | None
    box: Box

    @property
    def x(self) -> float:
        """Horizontal centre in pixels."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def y(self) -> float:
        """Vertical centre in pixels."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def patch_kind(self) -> int:
        """The class number of a patch that shows this thing."""
        return _FIRST_KIND[self.kind] + _NAMES[self.kind].index(self.name)


@dataclass(frozen=True)
class Scene2:
    """An image [H, W, 3] (uint8) and the things on it."""

    pixels: NDArray[np.uint8]
    things: tuple[Item, ...]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.pixels.shape[1]

    def of(self, *kinds: str) -> list[Item]:
        """The things of some kinds."""
        return [thing for thing in self.things if thing.kind in kinds]

    @cached_property
    def shapes(self) -> list[Item]:
        """The coloured shapes."""
        return self.of("shape")

    def patch_labels(self) -> NDArray[np.int64]:
        """Per patch in raster order [3, N]: kind, colour (0 none), whether a thing's centre lies in it."""
        rows, cols = self.height // PATCH, self.width // PATCH
        labels = np.zeros((3, rows, cols), np.int64)
        largest = np.full((rows, cols), float(MIN_OVERLAP))
        for thing in self.things:
            top, left, bottom, right = thing.box
            color = 0 if thing.color is None else 1 + COLOR_NAMES.index(thing.color)
            for row in range(top // PATCH, (bottom - 1) // PATCH + 1):
                height = min(bottom, (row + 1) * PATCH) - max(top, row * PATCH)
                for col in range(left // PATCH, (right - 1) // PATCH + 1):
                    overlap = height * (min(right, (col + 1) * PATCH) - max(left, col * PATCH))
                    if overlap >= largest[row, col]:
                        largest[row, col] = overlap
                        labels[:2, row, col] = thing.patch_kind, color
            labels[2, min(rows - 1, int(thing.y) // PATCH), min(cols - 1, int(thing.x) // PATCH)] = 1
        return labels.reshape(3, -1)


def make_scene_2(split: str, index: int, height: int = BASE_SIDE, width: int = BASE_SIDE) -> Scene2:
    """Scene number `index` of a split; the same numbers give the same scene, and no two splits share one.

    Args:
        split: train, validation, test or confirm.
        index: any whole number.
        height: pixels, at most 224.
        width: pixels, at most 224.
    """
    rng = random.Random(f"world2/{split}/{index}/{height}x{width}")
    noise = np.random.default_rng([2, SPLITS_2.index(split), height, width, index])
    material = load_material(split)
    pixels = _background(rng, material, height, width)
    things: list[Item] = []
    for kind, name, color in _cast(rng, height * width / BASE_SIDE**2):
        mask, pad = _mask(rng, material, kind, name)
        box = _free_box(rng, (height, width), things, mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad)
        if box is not None:
            things.append(Item(kind, name, color, box))
            _paint(rng, pixels, things[-1], mask, pad)
    pixels += np.float32(rng.uniform(0, 6)) * noise.standard_normal(pixels.shape, dtype=np.float32)
    return Scene2(pixels.clip(0, 255).astype(np.uint8), tuple(things))


def _cast(rng: random.Random, area: float) -> list[tuple[str, str, str | None]]:
    """Largest things first: words, digits, pictograms, then shapes of few kinds, so that distractors abound."""
    large = area > 2
    cast: list[tuple[str, str, str | None]] = []
    if rng.random() < 0.85:
        words = 2 if large and rng.random() < 0.4 else 1
        cast += [("word", name, None) for name in rng.sample(WORDS, words)]
    digits = rng.choice((1, 1, 1, 2, 2)) if rng.random() < 0.9 else 0
    cast += [("digit", name, None) for name in rng.sample(DIGITS, digits)]
    total = round(rng.randint(12, 16) * area**0.5)
    pictograms = round(rng.uniform(0.22, 0.4) * total)
    chosen = rng.sample(PICTOGRAMS, min(len(PICTOGRAMS), pictograms))
    if rng.random() < 0.5:  # one of them twice: not everything can be named by its kind alone
        chosen[-1] = chosen[0]
    cast += [("pictogram", name, None) for name in chosen]
    shapes = rng.sample(SHAPES, rng.randint(3, 6))
    colors = rng.sample(COLOR_NAMES, rng.randint(3, 6))
    return cast + [("shape", rng.choice(shapes), rng.choice(colors)) for _ in range(total - len(cast))]


def _background(rng: random.Random, material: Material, height: int, width: int) -> NDArray[np.float32]:
    """A background with crops of photographs and slanted letters as clutter."""
    background = rng.choice(material.backgrounds)
    top, left = rng.randint(0, background.shape[0] - height), rng.randint(0, background.shape[1] - width)
    pixels = background[top : top + height, left : left + width].astype(np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = np.ascontiguousarray(pixels * rng.uniform(0.75, 1.15) + rng.uniform(-15, 15))
    area = height * width / BASE_SIDE**2
    if rng.random() < 0.5:
        for _ in range(round(rng.randint(1, 4) * area)):
            crop = rng.choice(material.crops)
            tall, wide = crop.shape[:2]
            y, x = rng.randint(0, height - tall), rng.randint(0, width - wide)
            strength = rng.uniform(0.5, 1.0)
            region = pixels[y : y + tall, x : x + wide]
            region += strength * (crop - region)
    if rng.random() < 0.6:
        for _ in range(round(rng.randint(1, 5) * area)):
            mask = rng.choice(material.letters)[:height, :width]
            tall, wide = mask.shape
            y, x = rng.randint(0, height - tall), rng.randint(0, width - wide)
            ink = np.array([rng.uniform(0, 255)] * 3, np.float32) + np.float32(rng.uniform(-30, 30))
            region = pixels[y : y + tall, x : x + wide]
            region += rng.uniform(0.15, 0.6) * mask[..., None] * (ink - region)
    return pixels


def _mask(rng: random.Random, material: Material, kind: str, name: str) -> tuple[NDArray[np.float32], int]:
    """The thing's mask (RGBA for a pictogram) and how wide a plate shows around it, in pixels."""
    if kind == "word":
        return material.words[name, rng.choice(FONT_SIZES_2)], 2
    if kind == "digit":
        size = rng.choice(DIGIT_SIZES_2)
        return resize(rng.choice(material.digits[int(name)]), size, size), 2
    if kind == "pictogram":
        return rng.choice(material.pictograms[name, rng.choice(PICTOGRAM_SIZES)]), 0
    return rng.choice(material.shapes[name, rng.choice(SHAPE_SIZES_2)]), 0


def _free_box(
    rng: random.Random, size: tuple[int, int], things: list[Item], height: int, width: int
) -> Box | None:
    """A random box on the grid of `SNAP` pixels that touches no other, or None where there is no room."""
    tops = np.arange(0, size[0] - height + 1, SNAP)
    lefts = np.arange(0, size[1] - width + 1, SNAP)
    boxes = np.array([thing.box for thing in things], np.int32).reshape(-1, 4, 1)
    across_rows = (tops < boxes[:, 2] + GAP) & (boxes[:, 0] < tops + height + GAP)  # [things, tops]
    across_cols = (lefts < boxes[:, 3] + GAP) & (boxes[:, 1] < lefts + width + GAP)  # [things, lefts]
    hits = across_rows.T.astype(np.float32) @ across_cols.astype(np.float32)
    free = np.flatnonzero(hits == 0)
    if not len(free):
        return None
    row, col = divmod(int(free[rng.randrange(len(free))]), len(lefts))
    top, left = int(tops[row]), int(lefts[col])
    return top, left, top + height, left + width


def _paint(
    rng: random.Random, pixels: NDArray[np.float32], thing: Item, mask: NDArray[np.float32], pad: int
) -> None:
    """Blend a thing into the image: shapes in their colour, writings on a plate, pictograms as they are."""
    top, left, bottom, right = thing.box
    region = pixels[top:bottom, left:right]
    if thing.kind == "pictogram":
        shade = np.float32(rng.uniform(0.8, 1.1))
        region += mask[..., 3:] / 255 * (mask[..., :3] * shade - region)
        return
    if thing.color is not None:
        shade = rng.uniform(0.82, 1.05)
        ink = np.array([c * shade + rng.gauss(0, 8) for c in COLORS[thing.color]], np.float32)
        region += mask[..., None] * (ink - region)
        return
    dark = rng.random() < 0.5
    plate = np.array([rng.uniform(0, 60) if dark else rng.uniform(195, 255) for _ in range(3)], np.float32)
    ink = np.array([rng.uniform(170, 255) if dark else rng.uniform(0, 90) for _ in range(3)], np.float32)
    region += rng.uniform(0.75, 1.0) * (plate - region)
    inner = region[pad:-pad, pad:-pad]
    inner += mask[..., None] * (ink - inner)
